//! A bad network, and a server in trouble.

use std::io::ErrorKind;

use granary_test_services::Fault;

use super::*;
use crate::bytes::conformance::{Pair, holds};

#[test]
fn s3_packs_conform_over_a_bad_network() {
    let place = Place::new();
    place.proxy.set_retry_after(Some(0));
    for fault in
        [Fault::SlowDown, Fault::InternalError, Fault::Cut, Fault::FlipPut, Fault::LostAnswer]
    {
        place.proxy.set(fault, 0.04);
    }
    let open = |name| Box::new(place.open(name, LARGE_CACHE));
    holds(&Pair { one: open("one"), other: open("other") });
}

#[test]
fn a_body_that_breaks_off_is_asked_for_again_from_there() {
    let place = Place::new();
    let (id, contents) = place.pack(10 * MIB);
    for fault in [Fault::Cut, Fault::Stall] {
        let backend = place.open(&format!("{fault:?}"), LARGE_CACHE);
        let pack = backend.open(id, true).unwrap();
        place.proxy.next(fault, 2);
        let begun = Instant::now();
        assert!(read(&*pack, 0, &[10 * MIB], Wait::Yes).unwrap() == contents);
        assert!(begun.elapsed() < Duration::from_secs(4), "a stalled body is not waited for");
        let asked = backend.statistics();
        assert_eq!((asked.range_gets, asked.retries), (3, 2));
        assert!(asked.bytes_in < 15 * MIB as u64, "{asked:?}");
    }
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    place.proxy.set_retry_after(Some(1));
    place.proxy.next(Fault::SlowDown, 1);
    let begun = Instant::now();
    backend.set_note("a", "b").unwrap();
    assert!(begun.elapsed() > Duration::from_millis(950));
    let asked = backend.statistics();
    assert_eq!((asked.throttled, asked.retries), (1, 1));
}

#[test]
fn a_server_that_is_down_is_unknown_and_not_absent() {
    let mut place = Place::new();
    let (id, contents) = place.pack(1000);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    place.server.stop();
    let error = read(&*pack, 0, &[10], Wait::Yes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    let text = error.to_string();
    assert!(text.contains(&format!("packs/{id}.pack")) && text.contains("read"), "{text}");
    assert_eq!(backend.stat(id).unwrap_err().kind(), ErrorKind::NetworkDown);
    assert_eq!(backend.list().unwrap_err().kind(), ErrorKind::NetworkDown);
    assert_eq!(backend.note("a").unwrap_err().kind(), ErrorKind::NetworkDown);
    let begun = Instant::now();
    assert_eq!(backend.check().unwrap_err().kind(), ErrorKind::NetworkDown);
    assert!(begun.elapsed() <= Duration::from_secs(5));
    place.server.start_again();
    backend.check().unwrap();
    assert!(read(&*pack, 0, &[1000], Wait::Yes).unwrap() == contents);
}

#[test]
fn a_put_outlives_a_restart_of_the_server() {
    let mut place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let id = PackId::random().unwrap();
    place.server.stop();
    std::thread::scope(|threads| {
        let put = threads.spawn(|| backend.put(id, vec![1; 10]));
        std::thread::sleep(Duration::from_millis(500));
        place.server.start_again();
        put.join().unwrap().unwrap();
    });
    assert_eq!(place.object(id), [1; 10]);
}

#[test]
fn refusals_say_what_to_check_and_tell_no_secret() {
    let place = Place::new();
    place.server.bucket("packs");
    let endpoint = place.server.endpoint();
    let missing = format!("s3://elsewhere?endpoint={endpoint}&region=us-east-1");
    let backend = place.open_at("one", &missing, 0);
    let absent = backend.stat(PackId::random().unwrap()).unwrap_err();
    let unlisted = backend.check().unwrap_err();
    for error in [&absent, &unlisted] {
        assert!(error.to_string().contains("make the bucket"), "{error}");
    }
    let wrong = format!("{SECRET}-wrong");
    let location = place.server.bucket("packs").parse().unwrap();
    let dir = place.dir.path().join("two");
    let backend = S3Packs::open_with_key(location, &dir, 0, KEY, &wrong).unwrap();
    let error = backend.put(PackId::random().unwrap(), vec![1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    let text = error.to_string();
    assert!(text.contains("AWS_SECRET_ACCESS_KEY") && !text.contains(SECRET), "{text}");
    assert_eq!(backend.statistics().retries, 0, "asking again would change nothing");
}
