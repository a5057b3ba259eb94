//! Damage: what is found counts as missing, what is brought again is there, and what is put back counts.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use castore::fsck::Scrubbed;
use castore::gc::{Pace, SweepOptions};
use castore::pack::HEADER_LEN;
use castore::{Cause, Digest, Holder, Kind, Store};
use stores::{noise, open_with, packs_of, put, upload};
use tempfile::TempDir;

const TARGET: u64 = 300_000;

/// A closed store of several sealed packs, each with a file of one chunk.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    for seed in 0..6 {
        let uploaded = upload(&store, &[noise(seed, 200_000), noise(100 + seed, 5000)]);
        put(&store, &[seed as u8], uploaded.tree.as_bytes());
    }
    store.seal_open().unwrap();
    drop(store);
    dir
}

/// The chunk of that seed.
fn chunk(seed: u64) -> Digest {
    Digest::of(&noise(100 + seed, 5000))
}

/// Changes a byte of a chunk where it lies; the file, and what it held before.
fn rot(dir: &Path, chunk: &Digest) -> (PathBuf, Vec<u8>) {
    for pack in packs_of(dir).0 {
        let bytes = fs::read(&pack).unwrap();
        let at = bytes.windows(32).position(|bytes| bytes == chunk.as_bytes());
        // The footer has it as well, behind the record.
        if let Some(at) = at {
            let mut rotten = bytes.clone();
            rotten[at - 24 + HEADER_LEN + 100] ^= 1;
            fs::write(&pack, rotten).unwrap();
            return (pack, bytes);
        }
    }
    panic!("{chunk} is in no sealed pack");
}

fn scrub(store: &Store, resume: bool) -> Scrubbed {
    store.scrub(resume, 1, &mut Pace::unbound(), &mut |_| ()).unwrap()
}

fn is_there(store: &Store, chunk: &Digest) -> bool {
    store.locate(Kind::Chunk, chunk).unwrap().is_some()
}

fn read(store: &Arc<Store>, digest: &Digest) -> Result<Vec<u8>, castore::StoreError> {
    let (mut out, digest) = (Vec::new(), *digest);
    let chunk = castore::tree::ChunkRef { digest, size: 5000, patches: Vec::new() };
    store.reader()?.append_chunk(&chunk, &mut out)?;
    Ok(out)
}

#[test]
fn what_a_scrub_finds_damaged_is_missing_until_it_is_brought_again() {
    let dir = store();
    rot(dir.path(), &chunk(3));
    let store = open_with(dir.path(), TARGET);
    let found = scrub(&store, false);
    assert!(found.finished && found.damaged == 1 && found.problems.len() == 1, "{found:?}");
    assert!(found.packs >= 3 && found.records > 20, "{found:?}");
    assert!(!is_there(&store, &chunk(3)) && is_there(&store, &chunk(2)));
    assert_eq!(store.damaged().unwrap(), [(Kind::Chunk, chunk(3))]);
    drop(store);
    let store = open_with(dir.path(), TARGET);
    assert!(!is_there(&store, &chunk(3)));
    assert_eq!(scrub(&store, false).damaged, 0, "it is known");
    let uploaded = upload(&store, &[noise(103, 5000)]);
    put(&store, b"again", uploaded.tree.as_bytes());
    drop(uploaded);
    for _ in 0..2 {
        assert_eq!(read(&store, &chunk(3)).unwrap(), noise(103, 5000));
        store.seal_open().unwrap();
    }
    drop(store);
    let store = open_with(dir.path(), TARGET);
    assert_eq!(read(&store, &chunk(3)).unwrap(), noise(103, 5000));
}

#[test]
fn who_reads_something_damaged_marks_it() {
    let dir = store();
    rot(dir.path(), &chunk(1));
    let store = open_with(dir.path(), TARGET);
    let before = store.damage_changes();
    assert!(is_there(&store, &chunk(1)));
    assert_eq!(read(&store, &chunk(1)).unwrap_err().cause(), Cause::Lost);
    assert!(!is_there(&store, &chunk(1)));
    assert_ne!(store.damage_changes(), before);
}

#[test]
fn a_pack_that_is_put_back_has_all_that_was_in_it() {
    let dir = store();
    let (pack, whole) = rot(dir.path(), &chunk(1));
    let store = open_with(dir.path(), TARGET);
    assert_eq!(scrub(&store, false).damaged, 1);
    fs::write(&pack, whole).unwrap();
    let found = scrub(&store, false);
    assert_eq!((found.damaged, found.restored), (0, 1));
    assert_eq!(read(&store, &chunk(1)).unwrap(), noise(101, 5000));
    drop(store);
    assert!(is_there(&open_with(dir.path(), TARGET), &chunk(1)));
}

#[test]
fn a_pack_that_is_gone_takes_what_was_in_it_along_and_nothing_else() {
    let dir = store();
    let (pack, _) = rot(dir.path(), &chunk(1));
    let store = open_with(dir.path(), TARGET);
    fs::remove_file(&pack).unwrap();
    let found = scrub(&store, false);
    assert_eq!(found.lost.len(), 1, "{found:?}");
    assert!(!is_there(&store, &chunk(1)) && is_there(&store, &chunk(5)));
    assert_eq!(scrub(&store, false).lost.len(), 0);
}

#[test]
fn packs_that_are_all_gone_say_that_the_place_is_wrong() {
    let dir = store();
    let store = open_with(dir.path(), TARGET);
    let packs = dir.path().join("packs");
    fs::rename(&packs, dir.path().join("elsewhere")).unwrap();
    assert!(store.scrub(false, 1, &mut Pace::unbound(), &mut |_| ()).is_err());
    // As where a file system is not mounted.
    fs::create_dir(&packs).unwrap();
    let found = scrub(&store, false);
    assert!(found.lost.is_empty() && is_there(&store, &chunk(1)), "{found:?}");
}

#[test]
fn a_scrub_that_was_stopped_goes_on_behind_what_it_has_read() {
    let dir = store();
    let mut store = open_with(dir.path(), TARGET);
    let all = scrub(&store, false);
    assert!(all.packs >= 3, "{all:?}");
    let mut packs = 0;
    for run in 0.. {
        let stop = AtomicBool::new(false);
        let mut before = None;
        let found = store
            .scrub(true, 1, &mut Pace::new(None, Some(&stop)), &mut |news| {
                // Once one pack more is read, it ends.
                if *before.get_or_insert(news.packs) < news.packs && news.packs > run {
                    stop.store(true, Ordering::Relaxed);
                }
            })
            .unwrap();
        packs += found.packs;
        if found.finished {
            assert!(run > 0 && store.scrub_position().unwrap().is_none());
            break;
        }
        assert!(store.scrub_position().unwrap().is_some());
        drop(store);
        store = open_with(dir.path(), TARGET);
    }
    assert_eq!(packs, all.packs);
}

#[test]
fn a_claim_that_is_damaged_is_made_anew_when_its_pack_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    let (holder, contents) = (Holder::named(b"somebody"), noise(1, 5000));
    let mut taken = store.upload().unwrap().held_by(holder);
    taken.start_file(b"", false, 5000).unwrap();
    taken.write(&contents).unwrap();
    let tree = taken.finish().unwrap().tree;
    put(&store, b"kept", tree.as_bytes());
    // What nobody needs makes the pack worth collecting.
    drop(upload(&store, &[noise(2, 200_000)]));
    store.seal_open().unwrap();
    let mut rotten = 0;
    for pack in packs_of(dir.path()).0 {
        let mut bytes = fs::read(&pack).unwrap();
        let is_claim = |at: &usize| {
            let header = &bytes[*at..];
            header.starts_with(&0x184D_2A5C_u32.to_le_bytes()) && header[9] == Kind::Claim as u8
        };
        if let Some(at) = (32..bytes.len() - HEADER_LEN).find(is_claim) {
            // Its checksum.
            bytes[at + HEADER_LEN - 1] ^= 1;
            fs::write(&pack, bytes).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
    let mark = || {
        let mut live = store.live().unwrap();
        live.tree(&tree, &[holder]).unwrap();
        live
    };
    let plan = store.plan_packs(&mark(), 0.0).unwrap();
    store.condemn_planned(&plan).unwrap();
    let (grace, pace) = (Duration::ZERO, Pace::unbound());
    let swept = store.sweep(&mark(), SweepOptions { grace, pace, progress: &mut |_, _| () });
    let swept = swept.unwrap();
    assert!(swept.packs >= 1 && swept.damaged == 0, "{swept:?}");
    assert!(store.held(&[holder], &Digest::of(&contents)).unwrap().is_some());
}
