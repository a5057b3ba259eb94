//! Garbage collection of packs: what is needed stays, what is not goes, whoever uploads meanwhile.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use castore::gc::{Live, Pace, SweepOptions, Swept};
use castore::{CommitError, Digest, Expected, Holder, Kind, Store, Transaction, Uploaded};
use stores::{noise, open_with, packs_of, put, upload};

const TARGET: u64 = 300_000;

/// Marks the trees of all facts.
fn mark(store: &Arc<Store>) -> Live {
    let mut live = store.live().unwrap();
    for (_, fact) in store.scan_facts(b"", None, 10_000).unwrap() {
        live.tree(&Digest::from_slice(&fact.value).unwrap(), &[]).unwrap();
    }
    live
}

fn sweep(store: &Arc<Store>, live: &Live, grace: Duration) -> Swept {
    let options = SweepOptions { grace, pace: Pace::unbound(), progress: &mut |_, _| () };
    store.sweep(live, options).unwrap()
}

fn condemn(store: &Arc<Store>) -> usize {
    store.seal_open().unwrap();
    let live = mark(store);
    let plan = store.plan_packs(&live, 0.0).unwrap();
    store.condemn_planned(&plan).unwrap();
    plan.condemn.packs as usize
}

/// All of it, at once.
fn collect(store: &Arc<Store>) -> Swept {
    condemn(store);
    let live = mark(store);
    sweep(store, &live, Duration::ZERO)
}

fn remove(store: &Store, key: &[u8]) {
    let mut transaction = Transaction::default();
    transaction.remove(key.to_vec(), Expected::Anything);
    store.commit(transaction).unwrap();
}

/// Every tree that a fact names can be read to the last byte.
fn assert_whole(store: &Arc<Store>) {
    let mut reader = store.reader().unwrap();
    for (key, fact) in store.scan_facts(b"", None, 10_000).unwrap() {
        let tree = store.tree(&Digest::from_slice(&fact.value).unwrap()).unwrap();
        for (blob, size) in tree.files() {
            let mut read = Vec::new();
            for chunk in store.chunks_of(&tree, &blob, size).unwrap() {
                reader.append_chunk(&chunk, &mut read).unwrap();
            }
            assert_eq!(Digest::of(&read), blob, "{key:?}");
        }
    }
}

fn files(seed: u64) -> Vec<Vec<u8>> {
    vec![noise(seed, 150_000), noise(seed + 1000, 40_000), noise(seed + 2000, 500)]
}

fn fill(store: &Arc<Store>, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let uploaded = upload(store, &files(seed));
        put(store, &[seed as u8], uploaded.tree.as_bytes());
    }
}

fn bytes(dir: &Path) -> u64 {
    let (sealed, open) = packs_of(dir);
    sealed.iter().chain(&open).map(|path| path.metadata().unwrap().len()).sum()
}

fn commit(store: &Arc<Store>, key: &[u8], uploaded: &Uploaded) {
    let since = uploaded.flight.epoch();
    let value = uploaded.tree.as_bytes().to_vec();
    let transaction = || {
        let mut transaction = Transaction::default();
        transaction.put(key.to_vec(), value.clone(), Expected::Anything);
        transaction
    };
    store.commit_secured(&uploaded.tree, None, since, Some(&uploaded.flight), transaction).unwrap();
}

#[test]
fn half_of_it_goes_and_its_space_comes_back() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..40);
    (0..40).filter(|seed| seed % 2 == 0).for_each(|seed| remove(&store, &[seed]));
    let before = bytes(dir.path());
    let swept = collect(&store);
    assert!(swept.packs > 10 && swept.damaged == 0, "{swept:?}");
    assert_whole(&store);
    let fresh = open_with(other.path(), TARGET);
    for seed in (0..40).filter(|seed| seed % 2 == 1) {
        fill(&fresh, seed..seed + 1);
    }
    let (left, wanted) = (bytes(dir.path()), bytes(other.path()));
    assert!(left < before * 6 / 10 && left < wanted * 11 / 10, "{before} {left} {wanted}");
    // After a restart, and with an index made anew, it is the same.
    drop(store);
    let store = open_with(dir.path(), TARGET);
    assert_whole(&store);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open_with(dir.path(), TARGET);
    assert_eq!(store.scan_facts(b"", None, 100).unwrap().len(), 20);
    assert_whole(&store);
    // Nothing is left to do.
    assert_eq!(collect(&store).freed(), 0);
}

#[test]
fn what_is_uploaded_again_is_pardoned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..10);
    (0..10).for_each(|seed| remove(&store, &[seed]));
    assert!(condemn(&store) > 3);
    fill(&store, 0..3);
    let live = mark(&store);
    let swept = sweep(&store, &live, Duration::ZERO);
    assert!(swept.packs > 3, "{swept:?}");
    assert_whole(&store);
    assert_eq!(store.scan_facts(b"", None, 100).unwrap().len(), 3);
}

#[test]
fn an_upload_that_began_before_keeps_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..10);
    let underway = upload(&store, &files(4));
    (0..10).for_each(|seed| remove(&store, &[seed]));
    condemn(&store);
    let swept = sweep(&store, &mark(&store), Duration::ZERO);
    assert_eq!((swept.packs, swept.held_by_uploads), (0, swept.waiting), "{swept:?}");
    assert!(swept.waiting > 0);
    commit(&store, b"k", &underway);
    drop(underway);
    let swept = sweep(&store, &mark(&store), Duration::ZERO);
    assert!(swept.packs > 3 && swept.waiting == 0, "{swept:?}");
    assert_whole(&store);
}

#[test]
fn a_transaction_of_another_epoch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..5);
    let mut transaction = Transaction::default();
    transaction.put(b"k".to_vec(), vec![0; 32], Expected::Anything);
    transaction.secured(store.epoch());
    remove(&store, &[0]);
    assert!(condemn(&store) > 0);
    assert!(matches!(store.commit(transaction), Err(CommitError::Outdated)));
}

#[test]
fn the_grace_period_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..10);
    (0..10).for_each(|seed| remove(&store, &[seed]));
    let condemned = condemn(&store);
    let swept = sweep(&store, &mark(&store), Duration::from_secs(3600));
    assert_eq!((swept.packs, swept.waiting), (0, condemned as u64));
    // It is remembered over a restart.
    drop(store);
    let store = open_with(dir.path(), TARGET);
    let swept = sweep(&store, &mark(&store), Duration::ZERO);
    assert_eq!(swept.packs, condemned as u64);
}

#[test]
fn chunks_that_were_sent_and_not_published_stay_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    let holder = Holder::named(b"somebody");
    let elsewhere = tempfile::tempdir().unwrap();
    let source = open_with(elsewhere.path(), TARGET);
    let uploaded = upload(&source, &files(1));
    let mut intake = store.intake(holder).unwrap();
    let mut sent = Vec::new();
    let tree = source.tree(&uploaded.tree).unwrap();
    for (blob, size) in tree.files() {
        for chunk in source.chunks_of(&tree, &blob, size).unwrap() {
            let location = source.find(Kind::Chunk, &chunk.digest).unwrap();
            let mut frames = vec![0; location.stored as usize];
            let record = [(chunk.digest, location)];
            source.read_stored(&record, vec![&mut frames], castore::bytes::Wait::Yes).unwrap();
            let header = castore::pack::RecordHeader::seal(
                Kind::Chunk,
                chunk.digest,
                u64::from(location.plain),
                &frames,
            );
            intake.add(&header.unwrap(), &frames).unwrap();
            sent.push(chunk.digest);
        }
    }
    intake.finish().unwrap();
    // Enough to seal the pack that they lie in.
    fill(&store, 50..55);
    (50..55).for_each(|seed| remove(&store, &[seed]));
    assert!(collect(&store).packs > 0);
    let all_there =
        |store: &Store| sent.iter().all(|digest| store.held(&[holder], digest).unwrap().is_some());
    assert!(all_there(&store));
    // Also after a restart, which the client may not even notice.
    drop(store);
    let store = open_with(dir.path(), TARGET);
    fill(&store, 60..65);
    (60..65).for_each(|seed| remove(&store, &[seed]));
    collect(&store);
    assert!(all_there(&store));
}

#[test]
fn what_is_damaged_counts_as_missing_and_can_be_brought_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    fill(&store, 0..5);
    let digest = Digest::of(&files(2)[2]);
    let location = store.find(Kind::Chunk, &digest).unwrap();
    store.mark_damaged(&digest, &location).unwrap();
    assert!(store.locate(Kind::Chunk, &digest).unwrap().is_none());
    drop(store);
    let store = open_with(dir.path(), TARGET);
    assert!(store.locate(Kind::Chunk, &digest).unwrap().is_none());
    assert_eq!(store.damaged().unwrap(), [(Kind::Chunk, digest)]);
    fill(&store, 2..3);
    assert!(store.locate(Kind::Chunk, &digest).unwrap().is_some());
    assert_whole(&store);
}

#[test]
fn a_reader_goes_on_when_its_pack_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    // Several trees to a pack.
    let store = open_with(dir.path(), 4 * TARGET);
    fill(&store, 0..10);
    let find = |seed: u64| {
        let digest = Digest::of(&files(seed)[2]);
        (digest, store.find(Kind::Chunk, &digest).unwrap())
    };
    let before: Vec<_> = (0..5).map(|odd| find(2 * odd + 1)).collect();
    (0..10).filter(|seed| seed % 2 == 0).for_each(|seed| remove(&store, &[seed]));
    collect(&store);
    let mut moved = before.into_iter().zip((0..5).map(|odd| find(2 * odd + 1).1));
    let moved = moved.find(|((_, before), after)| before.pack != after.pack);
    let ((digest, before), after) = moved.unwrap();
    let mut frames = vec![0; before.stored as usize];
    let wait = castore::bytes::Wait::Yes;
    store.read_stored(&[(digest, before)], vec![&mut frames], wait).unwrap();
    let mut again = vec![0; before.stored as usize];
    store.read_stored(&[(digest, after)], vec![&mut again], wait).unwrap();
    assert_eq!(frames, again);
}
