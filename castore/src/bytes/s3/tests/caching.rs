//! What is asked of the server, and what is not.

use std::fs;
use std::io::ErrorKind;

use granary_test_services::Fault;

use super::*;

#[test]
fn a_pack_read_from_end_to_end_takes_few_requests() {
    let place = Place::new();
    let (id, contents) = place.pack(40 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    read_all(&*backend.open(id, true).unwrap(), &contents);
    assert_eq!(backend.statistics().range_gets, 7);
    assert_eq!(backend.statistics().bytes_in, 40 * MIB as u64, "nothing comes twice");
    assert_eq!(place.proxy.count("HEAD"), 0);
}

#[test]
fn one_small_read_fetches_one_page() {
    let place = Place::new();
    let (id, contents) = place.pack(20 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    let offset = 9 * MIB + 77;
    let pack = backend.open(id, true).unwrap();
    let got = read(&*pack, offset as u64, &[56, 1000], Wait::Yes).unwrap();
    assert!(got == contents[offset..offset + 1056]);
    assert_eq!(backend.statistics().bytes_in, MIB as u64);
}

#[test]
fn readers_of_one_page_share_one_request() {
    let place = Place::new();
    let (id, contents) = place.pack(MIB);
    let backend = place.open("one", LARGE_CACHE);
    place.proxy.set_latency(Duration::from_millis(100));
    std::thread::scope(|threads| {
        for reader in 0..16 {
            let (backend, contents) = (&backend, &contents);
            threads.spawn(move || {
                let pack = backend.open(id, true).unwrap();
                let got = read(&*pack, reader * 1000, &[1000], Wait::Yes).unwrap();
                assert!(got == contents[reader as usize * 1000..][..1000]);
            });
        }
    });
    assert_eq!(backend.statistics().range_gets, 1);
}

#[test]
fn what_was_cached_is_found_after_a_restart() {
    let place = Place::new();
    let (id, contents) = place.pack(5 * MIB + 5);
    {
        let backend = place.open("one", LARGE_CACHE);
        read_all(&*backend.open(id, true).unwrap(), &contents);
        let cached = || backend.core.pages.cached() == contents.len() as u64;
        eventually("all pages are written", cached);
    }
    let backend = place.open("one", LARGE_CACHE);
    read_all(&*backend.open(id, true).unwrap(), &contents);
    assert_eq!(backend.statistics().range_gets, 0);
    assert!(backend.statistics().cache_hits > 0);
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let place = Place::new();
    let (id, contents) = place.pack(30 * MIB);
    let backend = place.open("one", 9 * MIB as u64);
    let pack = backend.open(id, true).unwrap();
    for _ in 0..2 {
        read_all(&*pack, &contents);
        assert!(backend.core.pages.cached() <= 9 * MIB as u64);
    }
    assert!(backend.statistics().bytes_in <= 62 * MIB as u64);
}

#[test]
fn a_full_disk_fails_no_read() {
    let place = Place::new();
    let (id, contents) = place.pack(40 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    fs::remove_dir(place.dir.path().join("one/cache")).unwrap();
    read_all(&*backend.open(id, true).unwrap(), &contents);
    let asked = backend.statistics();
    assert!(asked.bytes_in < 50 * MIB as u64, "what came is used, not fetched anew: {asked:?}");
}

#[test]
fn a_damaged_page_is_fetched_again_once_it_is_distrusted() {
    let place = Place::new();
    let (id, contents) = place.pack(2 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    place.proxy.next(Fault::FlipGet, 1);
    let all = || read(&*pack, 0, &[2 * MIB], Wait::Yes).unwrap();
    assert!(all() != contents);
    assert!(all() != contents, "the cache believes what it was given");
    pack.distrust(MIB as u64..MIB as u64 + 1);
    assert!(all() == contents);
}

#[test]
fn a_damaged_file_of_a_pack_sealed_here_is_not_read_again_once_it_is_distrusted() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let id = PackId::random().unwrap();
    let pack = backend.create(id).unwrap();
    pack.write_at(0, &bytes(1000, 1)).unwrap();
    pack.seal().unwrap();
    let file = place.dir.path().join(format!("one/cache/{id}.pack"));
    fs::write(&file, [0; 1000]).unwrap();
    assert_eq!(read(&*pack, 0, &[1000], Wait::Yes).unwrap(), [0; 1000]);
    pack.distrust(500..501);
    assert!(read(&*pack, 0, &[1000], Wait::Yes).unwrap() == bytes(1000, 1));
}

#[test]
fn a_cached_file_that_is_short_is_fetched_again() {
    let place = Place::new();
    let (id, contents) = place.pack(3 * MIB);
    {
        let backend = place.open("one", LARGE_CACHE);
        read_all(&*backend.open(id, true).unwrap(), &contents);
        eventually("all pages are written", || backend.core.pages.cached() == 3 * MIB as u64);
    }
    fs::write(place.dir.path().join(format!("one/cache/{id}.1")), b"lost with the power").unwrap();
    let backend = place.open("one", LARGE_CACHE);
    read_all(&*backend.open(id, true).unwrap(), &contents);
    assert_eq!(backend.statistics().range_gets, 1);
}

#[test]
fn who_may_not_wait_asks_nobody() {
    let place = Place::new();
    let (id, contents) = place.pack(3 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    let before = backend.statistics();
    let error = read(&*pack, 10, &[100], Wait::No).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(since(&backend, &before), 0);
    pack.will_read(0..100);
    eventually("the hint is followed", || match read(&*pack, 10, &[100], Wait::No) {
        Ok(read) => read == contents[10..110],
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    });
}

#[test]
fn hints_are_bounded_and_readers_join_them() {
    let place = Place::new();
    let (id, contents) = place.pack(100 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    place.proxy.set_latency(Duration::from_millis(200));
    pack.will_read(0..100 * MIB as u64);
    pack.will_read(0..100 * MIB as u64);
    eventually("they begin", || backend.statistics().range_gets == 4);
    for page in [0, 20, 40, 63] {
        let got = read(&*pack, (page * MIB) as u64, &[MIB], Wait::Yes).unwrap();
        assert!(got == contents[page * MIB..][..MIB]);
    }
    assert_eq!(backend.statistics().range_gets, 4, "64 MiB, and no request by a reader");
    read_all(&*pack, &contents);
    assert_eq!(backend.statistics().bytes_in, 100 * MIB as u64);
}

#[test]
fn a_reader_does_not_wait_for_the_rest_of_a_window() {
    let place = Place::new();
    let (id, contents) = place.pack(10 * MIB);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    // Half of what is asked for comes, then nothing for a while.
    place.proxy.next(Fault::Stall, 1);
    pack.will_read(0..10 * MIB as u64);
    assert!(read(&*pack, 0, &[MIB], Wait::Yes).unwrap() == contents[..MIB]);
    assert_eq!(backend.statistics().retries, 0, "the first page is there before the rest");
    assert!(read(&*pack, 0, &[10 * MIB], Wait::Yes).unwrap() == contents);
}

#[test]
fn a_backend_that_goes_leaves_no_reader_waiting() {
    let place = Place::new();
    let (id, _) = place.pack(MIB);
    let backend = place.open("one", LARGE_CACHE);
    let pack = backend.open(id, true).unwrap();
    place.proxy.set_latency(Duration::from_secs(2));
    pack.will_read(0..10);
    drop(backend);
    let begun = Instant::now();
    drop(pack);
    assert!(begun.elapsed() < Duration::from_secs(1));
}
