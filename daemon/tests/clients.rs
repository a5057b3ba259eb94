//! Clients that behave, clients that do not, and a source that does not answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use granary_daemon::Options;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::worker::{Client, Error, Request, Trust, Version};
use support::{Local, Running};

type Connection = Client<UnixStream, UnixStream>;

fn connect_as(daemon: &Running, version: Version) -> Result<Connection, Error> {
    let stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    Client::connect_as(stream.try_clone().unwrap(), stream, StoreDir::default(), version)
}

fn connect(daemon: &Running) -> Connection {
    connect_as(daemon, Version::MAX).unwrap()
}

/// A greeted connection to speak over without our client.
fn greeted(daemon: &Running) -> UnixStream {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // 1.16: the daemon says its magic, its version and LAST.
    stream.write_all(b"cxin\0\0\0\0\x10\x01\0\0\0\0\0\0").unwrap();
    stream.write_all(&[0; 16]).unwrap();
    stream.read_exact(&mut [0; 24]).unwrap();
    stream
}

fn send(stream: &mut UnixStream, request: &Request) {
    let version = Version { major: 1, minor: 16 };
    let mut bytes = Vec::new();
    request.write(&mut bytes, version, &StoreDir::default()).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let Err(Error::Remote(error)) = result else { panic!("{result:?}") };
    error.message
}

fn nothing() -> StorePath {
    "00000000000000000000000000000000-nothing".parse().unwrap()
}

#[test]
fn every_version_gets_every_path_info() {
    let daemon = Running::tiny();
    let paths = &*daemon.view.paths;
    for minor in Version::MIN.minor..=Version::MAX.minor {
        let mut client = connect_as(&daemon, Version { major: 1, minor }).unwrap();
        let expected = if minor >= 35 { Trust::NotTrusted } else { Trust::Unknown };
        assert_eq!(client.greeting().trust, expected);
        let infos = client.query_path_infos(paths).unwrap();
        for (info, path) in infos.into_iter().zip(paths) {
            assert_eq!(info.as_ref(), daemon.view.infos.get(&path.hash()).map(|info| &**info));
        }
        assert_eq!(client.query_path_infos(&[nothing()]).unwrap(), [None]);
        let all = client.query_all_valid_paths().unwrap();
        assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), *paths);
        let asked = [vec![nothing()], paths.clone()].concat();
        assert_eq!(client.query_valid_paths(&asked).unwrap(), *paths);
        // The same hash and another name is another path.
        let renamed = StorePath::new(paths[0].hash(), "renamed").unwrap();
        assert!(!client.is_valid_path(&renamed).unwrap());
        let found = client.query_path_from_hash_part(paths[0].hash()).unwrap();
        assert_eq!(found.as_ref(), Some(&paths[0]));
        assert_eq!(client.query_path_from_hash_part(nothing().hash()).unwrap(), None);
    }
}

#[test]
fn derivers_and_outputs_are_told_of_valid_derivations() {
    let daemon = Running::tiny();
    let mut client = connect(&daemon);
    let infos = daemon.view.infos.values();
    let (path, deriver) =
        infos.filter_map(|i| Some((&i.store_path, i.deriver.as_ref()?))).next().unwrap();
    let derivers = client.query_valid_derivers(&[path.clone(), nothing()]).unwrap();
    assert_eq!(derivers, [vec![deriver.clone()], vec![]]);
    let outputs = client.query_derivation_outputs(std::slice::from_ref(deriver)).unwrap();
    assert_eq!(outputs, [vec![path.clone()]]);
    let said = message(client.query_derivation_outputs(std::slice::from_ref(path)));
    assert!(said.contains("it is no derivation"), "{said}");
}

#[test]
fn path_infos_from_memory_take_far_less_than_a_millisecond() {
    let daemon = Running::tiny();
    let path = Local::tiny_top();
    let mut client = connect(&daemon);
    let started = Instant::now();
    for _ in 0..2000 {
        // One round trip each.
        assert!(client.is_valid_path(&path).unwrap());
    }
    let each = started.elapsed() / 2000;
    println!("{each:?} for a round trip");
    assert!(each < Duration::from_millis(1), "{each:?}");
}

#[test]
fn a_nar_is_the_one_that_the_store_hashed() {
    let daemon = Running::tiny();
    let mut stream = greeted(&daemon);
    for path in daemon.view.paths.iter().take(30) {
        let info = &daemon.view.infos[&path.hash()];
        send(&mut stream, &Request::NarFromPath(path.clone()));
        let mut answer = vec![0; 8 + info.nar_size as usize];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[..8], b"stla\0\0\0\0");
        assert_eq!(Sha256::of(&answer[8..]), info.nar_hash, "{path}");
    }
    send(&mut stream, &Request::NarFromPath(nothing()));
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ptxc\0\0\0\0");
}

#[test]
fn a_nar_that_cannot_be_read_on_is_cut_off() {
    let daemon = Running::tiny();
    let top = Local::tiny_top();
    let bash = daemon.view.paths.iter().find(|path| path.name().starts_with("bash-")).unwrap();
    daemon.view.unreadable.store(true, Ordering::Relaxed);
    let mut stream = greeted(&daemon);
    send(&mut stream, &Request::NarFromPath(bash.clone()));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!((answer.len() as u64) < daemon.view.infos[&bash.hash()].nar_size);
    assert!(connect(&daemon).is_valid_path(&top).unwrap());
}

#[test]
fn a_silent_source_is_an_error_in_time() {
    let options = Options { deadline: Duration::from_millis(300), ..Options::default() };
    let daemon = Running::new(Local::tiny(), options);
    daemon.view.silent.store(true, Ordering::Relaxed);
    let (top, started) = (Local::tiny_top(), Instant::now());
    let expected = "https://cache.example/tiny did not answer within 0.3 seconds; try again later";
    assert_eq!(message(connect(&daemon).is_valid_path(&top)), expected);
    assert_eq!(message(connect(&daemon).query_all_valid_paths()), expected);
    assert_eq!(message(connect(&daemon).query_valid_paths(&daemon.view.paths)), expected);
    let said = message(connect(&daemon).query_referrers(&top));
    assert!(said.contains("are still being gathered, of 0 of 0 paths so far"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(5));
    // An error is no end: the next question on the same connection is answered.
    let mut stream = greeted(&daemon);
    send(&mut stream, &Request::IsValidPath(top.clone()));
    let mut answer = vec![0; 8 + 8 + expected.len().next_multiple_of(8) + 8];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"ptxc\0\0\0\0"));
    daemon.view.silent.store(false, Ordering::Relaxed);
    send(&mut stream, &Request::IsValidPath(top));
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"stla\0\0\0\0\x01\0\0\0\0\0\0\0");
}

/// By the view's infos.
fn referrers(daemon: &Running, path: &StorePath) -> Vec<StorePath> {
    let of = |p: &&StorePath| daemon.view.infos[&p.hash()].references.contains(path);
    daemon.view.paths.iter().filter(of).cloned().collect()
}

/// A path that others refer to.
fn below(daemon: &Running) -> StorePath {
    let path = daemon.view.paths.iter().max_by_key(|path| referrers(daemon, path).len()).unwrap();
    path.clone()
}

#[test]
fn referrers_are_gathered_once() {
    let daemon = Running::tiny();
    let path = below(&daemon);
    let expected = referrers(&daemon, &path);
    assert!(expected.len() > 5);
    let mut client = connect(&daemon);
    assert_eq!(client.query_referrers(&path).unwrap(), expected);
    assert_eq!(daemon.view.asked.load(Ordering::Relaxed), daemon.view.paths.len());
    for path in &*daemon.view.paths {
        assert_eq!(client.query_referrers(path).unwrap(), referrers(&daemon, path));
    }
    assert_eq!(daemon.view.asked.load(Ordering::Relaxed), daemon.view.paths.len());
    assert_eq!(client.query_referrers(&nothing()).unwrap(), []);
}

#[test]
fn gathering_that_failed_is_done_again() {
    let daemon = Running::tiny();
    let path = below(&daemon);
    daemon.view.fails.store(true, Ordering::Relaxed);
    let said = message(connect(&daemon).query_referrers(&path));
    assert!(said.contains("connection refused"), "{said}");
    daemon.view.fails.store(false, Ordering::Relaxed);
    let found = connect(&daemon).query_referrers(&path).unwrap();
    assert_eq!(found, referrers(&daemon, &path));
}

#[test]
fn without_a_list_referrers_are_those_that_were_asked_for() {
    let few = Options { referrers: 100, ..Options::default() };
    for options in [Options::default(), few] {
        let limit = options.referrers;
        let daemon = Running::new(Local::tiny(), options);
        daemon.view.lists.store(limit == 100, Ordering::Relaxed);
        assert!(daemon.view.paths.len() > 100);
        let path = below(&daemon);
        let mut client = connect(&daemon);
        assert_eq!(client.query_referrers(&path).unwrap(), []);
        let known = &referrers(&daemon, &path)[..3];
        client.query_path_infos(known).unwrap();
        assert_eq!(client.query_referrers(&path).unwrap(), known);
        // What is remembered has a bound.
        client.query_path_infos(&daemon.view.paths).unwrap();
        let found = client.query_referrers(&path).unwrap();
        assert!(found.starts_with(&known[..1]) && found.is_sorted());
        if limit > 100 {
            assert_eq!(found, referrers(&daemon, &path));
            let said = message(connect(&daemon).query_all_valid_paths());
            assert!(said.contains("cannot be listed"), "{said}");
        }
    }
}

#[test]
fn clients_beyond_the_bound_are_told_so() {
    let daemon = Running::new(Local::tiny(), Options { clients: 3, ..Options::default() });
    let mut inside: Vec<_> = (0..3).map(|_| connect(&daemon)).collect();
    let said = message(connect_as(&daemon, Version::MAX).map(drop));
    assert_eq!(said, "3 clients are connected to the daemon, and it takes no more");
    assert!(inside[0].is_valid_path(&Local::tiny_top()).unwrap());
    inside.pop();
    let started = Instant::now();
    while connect_as(&daemon, Version::MAX).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "a place was not given back");
    }
}

#[test]
fn a_thousand_connections_and_rubbish_harm_nobody_else() {
    let daemon = Running::tiny();
    let top = Local::tiny_top();
    let mut good = connect(&daemon);
    assert!(good.is_valid_path(&top).unwrap());
    for _ in 0..3 {
        let mut crowd = Vec::new();
        for number in 0..1000_u32 {
            let mut stream = UnixStream::connect(&daemon.socket).unwrap();
            // Half a greeting, none, one of another protocol, or one and a string without end.
            let said: &[u8] = match number % 4 {
                0 => b"cxin\0\0\0\0\x26",
                1 => b"",
                2 => b"GET / HTTP/1.1\r\n\r\n",
                _ => b"cxin\0\0\0\0\x26\x01\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xff\xff\xff\0\0\0\0\0",
            };
            // It may have been turned away.
            let _ = stream.write_all(said);
            crowd.push(stream);
        }
        assert!(good.is_valid_path(&top).unwrap());
    }
    let started = Instant::now();
    while connect_as(&daemon, Version::MAX).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "no place was given back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn requests_without_end_are_refused() {
    let daemon = Running::tiny();
    // A list that goes on, of valid paths; and a string that does.
    let path = format!("/nix/store/{}", Local::tiny_top());
    let mut item = Vec::from((path.len() as u64).to_le_bytes());
    item.extend(path.as_bytes());
    item.resize(item.len().next_multiple_of(8), 0);
    let list = [&31_u64.to_le_bytes()[..], &60_000_000_u64.to_le_bytes()].concat();
    for (start, item) in [(list, item), (31_u64.to_le_bytes().to_vec(), vec![0xff; 800])] {
        let mut stream = greeted(&daemon);
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let _ = writer.write_all(&start);
            let block = item.repeat(1000);
            for _ in 0..1000 {
                if writer.write_all(&block).is_err() {
                    return;
                }
            }
        });
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ptxc\0\0\0\0");
        drop(stream);
        sender.join().unwrap();
    }
    assert!(connect(&daemon).is_valid_path(&Local::tiny_top()).unwrap());
}

#[test]
fn a_stopped_daemon_finishes_its_answers_and_is_gone() {
    let mut daemon = Running::tiny();
    let mut idle = connect(&daemon);
    assert!(idle.is_valid_path(&Local::tiny_top()).unwrap());
    // Another waits for its answer.
    daemon.view.slow.store(500, Ordering::Relaxed);
    let mut busy = greeted(&daemon);
    send(&mut busy, &Request::IsValidPath(Local::tiny_top()));
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    daemon.stop();
    assert!(started.elapsed() < Duration::from_secs(3), "an idle client is not waited for");
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"stla\0\0\0\0\x01\0\0\0\0\0\0\0");
    assert!(idle.is_valid_path(&Local::tiny_top()).unwrap_err().is_disconnect());
    assert!(!daemon.socket.exists());
}

#[test]
fn a_daemon_that_waits_for_its_source_can_be_stopped() {
    let grace = Duration::from_millis(300);
    let mut daemon = Running::new(Local::tiny(), Options { grace, ..Options::default() });
    daemon.view.silent.store(true, Ordering::Relaxed);
    let mut stream = greeted(&daemon);
    send(&mut stream, &Request::IsValidPath(Local::tiny_top()));
    let mut other = greeted(&daemon);
    send(&mut other, &Request::QueryReferrers(Local::tiny_top()));
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    daemon.stop();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
}
