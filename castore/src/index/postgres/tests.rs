//! PostgreSQL as it is, and as it fails: stopped, killed, frozen, cut off in the middle of a commit.

mod proxy;

use std::time::{Duration, Instant};

use granary_test_services::Postgres;

use super::super::conformance::shared::{eventually, hear, must, next};
use super::*;
use proxy::Proxy;

/// The longest that a call to a dead server may take.
const DEAD: Duration = Duration::from_secs(15);

fn open(url: &str) -> PostgresIndex {
    must(PostgresIndex::open(url))
}

fn put(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, value);
    batch
}

/// Demands that a call says the server is away, and says so soon.
fn unavailable<T>(call: impl FnOnce() -> Result<T, IndexError>) -> String {
    let started = Instant::now();
    let error = match call() {
        Err(error @ IndexError::Unavailable { .. }) => error.to_string(),
        Err(error) => panic!("not Unavailable but {error:?}"),
        Ok(_) => panic!("a server that is away has answered"),
    };
    assert!(started.elapsed() < DEAD, "{:?} for {error}", started.elapsed());
    error
}

#[test]
fn postgres_keeps_the_promises_of_an_index() {
    let postgres = Postgres::start();
    let mut count = 0;
    super::super::conformance::check(|| {
        count += 1;
        open(&postgres.database(&format!("test{count}")))
    });
}

#[test]
fn postgres_keeps_the_promises_of_a_shared_index() {
    let postgres = Postgres::start();
    let url = postgres.url();
    super::super::conformance::shared::check(|| open(&url));
}

#[test]
fn it_works_on_the_threads_of_a_runtime() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let index = open(&url);
        index.apply(&put(b"k", b"1")).unwrap();
        let index = tokio::task::spawn_blocking(move || {
            assert_eq!(index.get(b"k").unwrap().as_deref(), Some(&b"1"[..]));
            index
        });
        drop(index.await.unwrap());
    });
}

#[test]
fn many_that_open_a_new_database_at_once_make_it_once() {
    let postgres = Postgres::start();
    let url = postgres.url();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| open(&url));
        }
    });
}

#[test]
fn tables_of_a_newer_version_are_left_alone() {
    let postgres = Postgres::start();
    drop(open(&postgres.url()));
    postgres.sql("UPDATE granary_schema SET version = 99");
    let Err(error) = PostgresIndex::open(&postgres.url()) else { panic!("it was opened") };
    assert!(matches!(error, IndexError::Engine { .. }), "{error:?}");
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn schemas_are_stores_of_their_own() {
    let postgres = Postgres::start();
    postgres.sql("CREATE SCHEMA one; CREATE SCHEMA \"Two\"");
    let url = |path: &str| format!("{}?options=-c%20search_path%3D{path}", postgres.url());
    let public = open(&postgres.url());
    let (one, two) = (open(&url("one,public")), open(&url("%22Two%22")));
    one.apply(&put(b"k", b"1")).unwrap();
    assert_eq!(two.get(b"k").unwrap(), None);
    assert_eq!(public.get(b"k").unwrap(), None);
    assert!(one.others().unwrap().is_empty());
    let _held = one.lock("a").unwrap();
    assert!(two.try_lock("a").unwrap().is_some());
    let news = hear(&two);
    one.say("hello").unwrap();
    open(&url("%22Two%22")).say("to two").unwrap();
    assert!(matches!(next(&news), News::Said { text, .. } if text == "to two"));
    let Err(error) = PostgresIndex::open(&url("missing")) else { panic!("it was opened") };
    assert!(error.to_string().contains("create it"), "{error}");
}

#[test]
fn a_terminated_session_ends_its_lock_and_its_membership_comes_back() {
    let postgres = Postgres::start();
    let (one, two) = (open(&postgres.url()), open(&postgres.url()));
    let held = one.lock("a").unwrap();
    let news = hear(&two);
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'granary'",
    );
    eventually("the holder notices", || !held.is_held());
    eventually("the lock is free", || two.try_lock("a").unwrap().is_some());
    assert_eq!(next(&news), News::Missed);
    eventually("both are members again", || {
        one.others().unwrap() == [two.member()] && two.others().unwrap() == [one.member()]
    });
    one.say("again").unwrap();
    assert_eq!(next(&news), News::Said { from: one.member(), text: "again".to_owned() });
}

#[test]
fn a_server_that_restarts_is_not_noticed() {
    let postgres = Postgres::start();
    let index = open(&postgres.url());
    let news = hear(&index);
    index.apply(&put(b"k", b"1")).unwrap();
    for kill in [false, true] {
        if kill {
            postgres.kill_nine();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| postgres.restart());
            for _ in 0..20 {
                assert!(index.get(b"k").unwrap().is_some());
                index.apply(&put(b"k", b"2")).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(next(&news), News::Missed);
        assert!(index.try_lock("a").unwrap().is_some());
    }
}

#[test]
fn a_stopped_server_is_said_to_be_away() {
    let postgres = Postgres::start();
    let (index, other) = (open(&postgres.url()), open(&postgres.url()));
    let held = other.lock("a").unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| index.lock("a").map(drop));
        std::thread::sleep(Duration::from_millis(300));
        postgres.stop();
        let started = Instant::now();
        unavailable(|| waiter.join().unwrap());
        assert!(started.elapsed() < DEAD);
    });
    assert!(!held.is_held());
    let error = unavailable(|| index.get(b"k"));
    assert!(error.contains("cannot be reached: no connection to 127.0.0.1:"), "{error}");
    unavailable(|| index.apply(&put(b"k", b"1")));
    unavailable(|| index.try_lock("a").map(drop));
    unavailable(|| index.others());
    unavailable(|| index.say("hello"));
    let url = postgres.url().replace("postgres@", "postgres:secret@");
    let error = unavailable(|| PostgresIndex::open(&url).map(drop));
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_frozen_server_is_said_to_be_away() {
    let postgres = Postgres::start();
    let (index, other) = (open(&postgres.url()), open(&postgres.url()));
    index.apply(&put(b"k", b"1")).unwrap();
    let held = other.lock("a").unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| index.lock("a").map(drop));
        std::thread::sleep(Duration::from_millis(300));
        postgres.freeze();
        let reader = scope.spawn(|| unavailable(|| index.get(b"k")));
        let writer = scope.spawn(|| unavailable(|| index.apply(&put(b"k", b"2"))));
        unavailable(|| waiter.join().unwrap());
        reader.join().unwrap();
        writer.join().unwrap();
    });
    postgres.thaw();
    assert!(index.get(b"k").unwrap().is_some());
    drop(held);
    drop(index.lock("a").unwrap());
}

#[test]
fn a_batch_waits_for_one_that_is_slow_but_alive() {
    let postgres = Postgres::start();
    let index = open(&postgres.url());
    let names = Names::of_schema("public");
    std::thread::scope(|scope| {
        let blocker = scope.spawn(|| {
            postgres.sql(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock({}, 0); SELECT pg_sleep(7); COMMIT",
                names.writers
            ))
        });
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        index.apply(&put(b"k", b"1")).unwrap();
        assert!(started.elapsed() > Duration::from_secs(5), "it did not wait");
        blocker.join().unwrap();
    });
}

#[test]
fn a_connection_lost_in_a_commit_is_repeated_only_without_preconditions() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let proxy = Proxy::before(&url);
    let index = open(&proxy.url(&url));
    proxy.cut_at_commit();
    index.apply(&put(b"k", b"1")).unwrap();
    assert!(!proxy.is_armed());
    assert_eq!(index.get(b"k").unwrap().as_deref(), Some(&b"1"[..]));

    proxy.cut_at_commit();
    let mut batch = put(b"k", b"2");
    batch.expect(*b"k", Some(b"1".to_vec()));
    let error = unavailable(|| index.apply(&batch));
    assert!(error.contains("is not known"), "{error}");
    // It did take effect, and trying again tells.
    eventually("the commit is seen", || index.get(b"k").unwrap().as_deref() == Some(b"2"));
    assert!(matches!(index.apply(&batch), Err(IndexError::Conflict)));
}
