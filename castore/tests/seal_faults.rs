//! Packs that are sealed, registered and taken in while something goes wrong: a disk that is full, an index
//! that is out of reach.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::io;
use std::path::Path;
use std::time::Duration;

use castore::{Cause, Clock, Expected, ManualClock, Transaction};
use stores::faults::{Call, Folder, Shaky, changes, open};
use stores::place::{
    Place, TARGET, assert_whole, condemn, even, files, fill, fill_pairs, odd, remove, sweep,
};
use stores::{put, upload};

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: u64 = 1_800_000_000;

/// Files of segments that were begun and not finished.
fn unfinished(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join("index/locations")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".tmp")).count()
}

#[test]
fn a_pack_is_sealed_once_whether_segments_can_be_merged_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let (packs, index) =
        (Folder::disk(&dir.path().join("packs")), Shaky::open(&dir.path().join("sled")));
    let store = open(dir.path(), &packs, &index, Clock::default(), TARGET);
    // Each of the others' footers is read when the eighth is added.
    for seed in 0..7 {
        fill(&store, seed..seed + 1);
        store.seal_open().unwrap();
    }
    packs.fault(|call, _| match call {
        Call::Read => Err(io::Error::other("cannot be read")),
        _ => Ok(()),
    });
    fill(&store, 7..8);
    store.seal_open().unwrap();
    packs.mend();
    assert_eq!(unfinished(dir.path()), 0);
    let listed = || {
        let options = castore::fsck::CheckOptions {
            depth: castore::fsck::Depth::Contents,
            threads: 1,
            progress: &mut |_| (),
        };
        store.check(options).unwrap()
    };
    assert!(listed().problems.is_empty());
    // The next pack merges them.
    fill(&store, 8..9);
    store.seal_open().unwrap();
    assert!(std::fs::read_dir(dir.path().join("index/locations")).unwrap().count() > 0);
    assert_whole(&store, 0..9);
}

#[test]
fn where_no_segment_can_be_written_packs_are_sealed_taken_in_and_removed() {
    let place = Place::bucket();
    let (store, replica) = (place.open("one"), place.open("other"));
    fill(&store, 0..12);
    replica.catch_up().unwrap();
    // As on a disk that is full.
    let names = ["one", "other"].map(|name| place.dir.path().join(name).join("index/locations"));
    let aside = |path: &Path| path.with_extension("aside");
    names.iter().for_each(|path| std::fs::rename(path, aside(path)).unwrap());
    fill(&store, 12..14);
    replica.catch_up().unwrap();
    assert_whole(&replica, 0..14);
    remove(&store, even(0..14));
    condemn(&store).unwrap();
    let swept = sweep(&store).unwrap();
    assert!(swept.packs > 6, "{swept:?}");
    replica.keep_up().unwrap();
    for store in [&store, &replica] {
        assert_whole(store, odd(0..14));
    }
    names.iter().for_each(|path| std::fs::rename(aside(path), path).unwrap());
    fill(&store, 20..30);
    replica.catch_up().unwrap();
    assert_whole(&replica, odd(0..14).chain(20..30));
    drop((store, replica));
    assert_whole(&place.open("one"), odd(0..14).chain(20..30));
}

#[test]
fn what_is_not_needed_goes_though_there_is_no_room_to_copy_what_is() {
    let place = Place::bucket();
    let store = place.open("one");
    fill_pairs(&store, 0..8);
    remove(&store, [0, 1, 2, 4].into_iter());
    assert_eq!(condemn(&store).unwrap(), 3);
    place.packs.fault(|call, _| match call {
        Call::Write => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let before = place.packs.ids().len();
    let failed = sweep(&store).unwrap_err();
    assert_eq!((failed.cause(), place.packs.ids().len()), (Cause::Full, before - 1));
    place.packs.mend();
    assert_eq!(sweep(&store).unwrap().packs, 2);
    assert_whole(&store, [3, 5, 6, 7].into_iter());
}
#[test]
fn a_pack_that_was_removed_as_nobodys_is_stored_again_before_it_is_registered() {
    let place = Place::bucket();
    let (clock, other_clock) = (ManualClock::at(NOW), ManualClock::at(NOW));
    let (store, collector) =
        (place.open_at("one", clock), place.open_at("other", other_clock.clone()));
    let uploaded = upload(&store, &files(1));
    // It is stored, and the index does not answer.
    place.index.refuse(|batch| changes(batch, b"p"));
    assert!(store.seal_open().is_err());
    let stored = place.packs.ids();
    assert!(!stored.is_empty());
    assert_eq!(collector.tidy_objects().unwrap().strays, 0);
    other_clock.advance(DAY);
    assert_eq!(collector.tidy_objects().unwrap().strays, stored.len() as u64);
    assert!(place.packs.ids().is_empty());
    place.index.mend();
    put(&store, &[1], uploaded.tree.as_bytes());
    collector.catch_up().unwrap();
    for store in [&store, &collector, &place.open("third")] {
        assert_whole(store, [1].into_iter());
    }
}

#[test]
fn a_pack_that_is_gone_for_good_is_not_registered() {
    let place = Place::bucket();
    let store = place.open("one");
    let uploaded = upload(&store, &files(1));
    place.index.refuse(|batch| changes(batch, b"p"));
    assert!(store.seal_open().is_err());
    let removed = place.packs.ids();
    removed.iter().for_each(|id| std::fs::remove_file(place.path(*id)).unwrap());
    place.packs.fault(move |call, id| match call == Call::Put && removed.contains(&id) {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    });
    place.index.mend();
    let mut transaction = Transaction::default();
    let tree = uploaded.tree.as_bytes().to_vec();
    transaction.put(b"key".to_vec(), tree, Expected::Anything);
    assert!(store.commit(transaction).is_err());
    assert!(place.open("other").fact(b"key").unwrap().is_none());
}
