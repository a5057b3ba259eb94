//! Garbage collection while something goes wrong: whatever fails, the next collection goes on from there.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use castore::gc::{Pace, Swept};
use castore::index::{Batch, Index};
use castore::pack::PackId;
use castore::{Digest, Kind, ManualClock, Options, Store};
use stores::faults::{Call, Shaky, changes};
use stores::place::{
    Place, assert_whole, condemn, even, files, fill, fill_pairs, mark, odd, remove, sweep,
    sweep_after,
};
use stores::{noise, put};

/// Fails the first call of this kind.
fn once(call: Call) -> impl Fn(Call, PackId) -> io::Result<()> {
    let failed = AtomicBool::new(false);
    move |now, _| match now == call && !failed.swap(true, Ordering::Relaxed) {
        true => Err(io::ErrorKind::NetworkDown.into()),
        false => Ok(()),
    }
}

#[test]
fn a_removal_that_failed_is_done_by_the_next_collection_and_holds_up_nothing() {
    let place = Place::bucket();
    let (store, replica) = (place.open("one"), place.open("other"));
    fill(&store, 0..6);
    replica.catch_up().unwrap();
    remove(&store, even(0..6));
    assert!(condemn(&store).unwrap() > 2);
    place.packs.fault(once(Call::Remove));
    assert!(sweep(&store).is_err());
    place.packs.mend();
    let left = place.packs.ids();
    assert_eq!(sweep(&store).unwrap().packs, 1, "the others were removed");
    assert_eq!(place.packs.ids().len(), left.len() - 1);
    assert_eq!(sweep(&replica).unwrap(), Swept::default());
    assert_whole(&store, odd(0..6));
}

#[test]
fn a_collector_that_was_killed_after_a_removal_holds_up_nothing() {
    let place = Place::bucket();
    let (store, replica) = (place.open("one"), place.open("other"));
    fill(&store, 0..6);
    replica.catch_up().unwrap();
    remove(&store, even(0..6));
    let condemned = condemn(&store).unwrap();
    // All that follows the removal of packs does not happen.
    place.index.refuse(|batch| changes(batch, b"x"));
    assert!(sweep(&store).is_err());
    place.index.mend();
    for survivor in [&store, &replica, &place.open("third")] {
        survivor.refresh_epoch().unwrap();
        assert_whole(survivor, odd(0..6));
    }
    assert_eq!(sweep(&replica).unwrap().packs, condemned);
    assert_eq!(sweep(&store).unwrap(), Swept::default());
    fill(&store, 10..13);
    remove(&store, 10..13);
    condemn(&store).unwrap();
    assert!(sweep(&store).unwrap().packs > 0);
    assert_whole(&store, odd(0..6));
}

#[test]
fn a_pack_that_somebody_deleted_holds_up_no_other_and_goes_when_it_is_not_needed_any_more() {
    let place = Place::bucket();
    let store = place.open("one");
    fill_pairs(&store, 0..6);
    remove(&store, even(0..6));
    assert_eq!(condemn(&store).unwrap(), 3);
    let chunk = Digest::of(&noise(1, 60_000));
    std::fs::remove_file(place.path(place.holder_of(&chunk))).unwrap();
    let swept = sweep(&store).unwrap();
    assert_eq!((swept.packs, swept.waiting), (2, 1));
    assert_whole(&store, [3, 5].into_iter());
    remove(&store, [1].into_iter());
    let swept = sweep(&store).unwrap();
    assert_eq!((swept.packs, swept.waiting), (1, 0));
    assert!(store.damaged().unwrap().is_empty());
    assert_whole(&store, [3, 5].into_iter());
}

#[test]
fn a_damaged_tree_holds_nothing_up_after_its_pack_was_removed() {
    for place in [Place::disk(), Place::bucket()] {
        let store = place.open("one");
        fill(&store, 0..6);
        store.seal_open().unwrap();
        let tree = Digest::from_slice(&store.fact(&[1]).unwrap().unwrap().value).unwrap();
        let found = store.find(Kind::Tree, &tree).unwrap();
        // The record of it, header and all.
        let mut packs = std::fs::read_dir(place.dir.path().join("packs")).unwrap();
        let rotten = packs.find_map(|entry| {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = found.offset as usize;
            let header = bytes.get(at..at + 64)?;
            let it_is = header.windows(32).any(|bytes| bytes == tree.as_bytes());
            it_is.then(|| {
                bytes[at + 64 + 5] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            })
        });
        rotten.unwrap();
        remove(&store, even(0..6));
        let state = |store: &Arc<Store>| {
            let live = mark(store);
            (live.damaged, live.missing)
        };
        assert_eq!(state(&store), (1, 0));
        assert!(condemn(&store).unwrap() > 2);
        assert_eq!(sweep(&store).unwrap().damaged, 1);
        assert!(store.locate(Kind::Tree, &tree).unwrap().is_none());
        // From now on it is in no pack.
        assert_eq!(state(&store), (1, 0));
        assert_eq!(sweep(&store).unwrap(), Swept::default());
        drop(store);
        let store = place.open("two");
        assert_eq!(state(&store), (1, 0));
        // Once it was there again, one that is gone counts as missing.
        fill(&store, 1..2);
        assert_eq!(state(&store), (0, 0));
        sweep(&store).unwrap();
        store.seal_open().unwrap();
        let found = store.find(Kind::Tree, &tree).unwrap();
        let chunk = files(1).pop().unwrap();
        assert!(found.stored > 0 && store.stays(Kind::Chunk, &Digest::of(&chunk)).unwrap());
    }
}
#[test]
fn a_pack_that_is_collected_while_it_is_scrubbed_leaves_no_damage_behind() {
    let place = Place::bucket();
    // The collector is another process.
    let (store, collector) = (place.open("one"), place.open("other"));
    fill(&store, 0..6);
    collector.catch_up().unwrap();
    remove(&store, even(0..6));
    assert!(condemn(&collector).unwrap() > 2);
    let condemned = place.packs.ids().len();
    let (victim, reads) = (place.holder_of(&Digest::of(&files(2)[1])), AtomicUsize::new(0));
    place.packs.fault(move |call, id| {
        // Its start, and twice its end; then its records.
        if call == Call::Read && id == victim && reads.fetch_add(1, Ordering::Relaxed) == 3 {
            assert!(sweep(&collector).unwrap().packs > 2);
        }
        Ok(())
    });
    let scrub = || store.scrub(false, 1, &mut Pace::unbound(), &mut |_| ()).unwrap();
    let found = scrub();
    assert!(place.packs.ids().len() < condemned);
    assert!(found.problems.is_empty() && found.damaged == 0, "{found:?}");
    assert!(store.damaged().unwrap().is_empty());
    // What was marked a moment too late is forgotten by the next one.
    let pack = PackId::from_bytes([7; 16]);
    let mut batch = Batch::default();
    let digest = Digest::of(b"chunk");
    let mark = [&[Kind::Chunk as u8][..], digest.as_bytes()].concat();
    batch.put([&b"q"[..], pack.as_bytes(), &100_u64.to_be_bytes()].concat(), mark);
    place.index.apply(&batch).unwrap();
    assert_eq!(store.damaged().unwrap().len(), 1);
    assert_eq!(scrub().restored, 0);
    assert!(store.damaged().unwrap().is_empty());
}

#[test]
fn packs_whose_condemnation_did_not_come_through_are_condemned_the_next_time() {
    let place = Place::bucket();
    let store = place.open("one");
    fill(&store, 0..6);
    remove(&store, even(0..6));
    place.index.refuse(|batch| changes(batch, b"m/epoch"));
    assert!(condemn(&store).is_err());
    place.index.mend();
    assert!(condemn(&store).unwrap() > 2);
    assert!(sweep(&store).unwrap().packs > 2);
    assert_whole(&store, odd(0..6));
}

#[test]
fn packs_of_facts_become_one_though_there_is_one_that_is_nearly_full() {
    let place = Place::bucket();
    let store = place.open("one");
    // Incompressible, and first by its number.
    put(&store, b"large", &noise(1, (32 << 20) - 2000));
    let small = |from: u8| (from..from + 40).for_each(|key| put(&store, &[key], &[key]));
    small(0);
    for from in [40, 80] {
        let tidied = store.tidy_objects().unwrap();
        assert!(tidied.merged >= 40 && tidied.facts == 2, "{tidied:?}");
        small(from);
    }
    drop(store);
    let index = Shaky::open(&place.dir.path().join("anew"));
    let mut progress = |_| {};
    let options = Options {
        packs: Some(place.packs.clone()),
        index: Some(index),
        rebuild: true,
        ..Options::new(&mut progress)
    };
    let remade = Store::open(&place.dir.path().join("remade"), options).unwrap();
    assert_eq!(remade.scan_facts(b"", None, 1000).unwrap().len(), 121);
    assert_eq!(remade.last_sequence().unwrap(), 121);
    assert_eq!(remade.fact(&[100]).unwrap().unwrap().value, [100]);
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: u64 = 1_800_000_000;

#[test]
fn a_clock_that_was_ahead_holds_nothing_back_for_longer_than_the_grace_period() {
    let place = Place::bucket();
    let wrong = place.open_at("wrong", ManualClock::at(NOW + YEAR.as_secs()));
    fill(&wrong, 0..6);
    remove(&wrong, even(0..6));
    let condemned = condemn(&wrong).unwrap();
    // An object that nobody registers, seen by that clock.
    let stray = PackId::from_bytes([9; 16]);
    std::fs::copy(place.path(place.holder_of(&Digest::of(&files(0)[1]))), place.path(stray))
        .unwrap();
    assert_eq!(wrong.tidy_objects().unwrap().strays, 0);
    drop(wrong);
    let clock = ManualClock::at(NOW);
    let store = place.open_at("right", clock.clone());
    let swept = sweep_after(&store, DAY).unwrap();
    assert_eq!((swept.packs, swept.waiting), (0, condemned));
    assert_eq!(store.tidy_objects().unwrap().strays, 0);
    clock.advance(DAY);
    assert_eq!(sweep_after(&store, DAY).unwrap().packs, condemned);
    assert_eq!(store.tidy_objects().unwrap().strays, 1);
    assert_whole(&store, odd(0..6));
}
