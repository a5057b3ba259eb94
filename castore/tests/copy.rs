//! A store that is copied: all of it comes, or nobody takes it for a store.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use castore::bytes::{AppendPack, Durability, Listed, LocalPacks, PackBackend, ReadPack};
use castore::copy::{CopyError, CopyReport, copy_packs};
use castore::fsck::{CheckOptions, Depth};
use castore::pack::PackId;
use castore::{Options, Store, StoreError};
use stores::{noise, open_with, packs_of, put, upload};

const TARGET: u64 = 300_000;

/// A transaction over some files.
fn grow(dir: &Path, seeds: std::ops::Range<u64>) {
    let store = open_with(dir, TARGET);
    for seed in seeds {
        let uploaded = upload(&store, &[noise(seed, 200_000), noise(100 + seed, 1000)]);
        put(&store, &[seed as u8], uploaded.tree.as_bytes());
    }
}

fn packs(dir: &Path) -> LocalPacks {
    LocalPacks::open(&dir.join("packs")).unwrap()
}

fn copy(from: &Path, to: &Path) -> Result<CopyReport, CopyError> {
    copy_packs(&packs(from), &packs(to), "the old place", &mut |_| ())
}

/// Everything that was committed is there, and all of it is sound.
fn assert_holds(dir: &Path, seeds: std::ops::Range<u64>) {
    let store = open_with(dir, TARGET);
    assert_eq!(store.scan_facts(b"", None, 100).unwrap().len() as u64, seeds.end - seeds.start);
    for seed in seeds {
        let fact = store.fact(&[seed as u8]).unwrap().unwrap();
        let tree = castore::Digest::from_slice(&fact.value).unwrap();
        let tree = store.tree(&tree).unwrap();
        let mut reader = store.reader().unwrap();
        for (blob, size) in tree.files() {
            let mut read = Vec::new();
            for chunk in store.chunks_of(&tree, &blob, size).unwrap() {
                reader.append_chunk(&chunk, &mut read).unwrap();
            }
            assert_eq!(castore::Digest::of(&read), blob);
        }
    }
    let options = CheckOptions { depth: Depth::Contents, threads: 0, progress: &mut |_| () };
    let problems = store.check(options).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
}

fn open(dir: &Path) -> Result<Arc<Store>, StoreError> {
    Store::open(dir, Options::new(&mut |_| ()))
}

#[test]
fn a_copy_holds_all_that_was_committed_in_sealed_packs() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..5);
    let before = packs_of(from.path());
    let report = copy(from.path(), to.path()).unwrap();
    assert_eq!(report.sealed, before.1.len() as u64);
    assert_eq!(report.packs, (before.0.len() + before.1.len()) as u64);
    assert_eq!(packs_of(from.path()), before, "the source was changed");
    assert!(packs_of(to.path()).1.is_empty());
    assert_holds(to.path(), 0..5);
    // Opening it has sealed nothing and written nothing: it is still a copy.
    let again = copy(from.path(), to.path()).unwrap();
    assert_eq!((again.packs, again.present), (0, report.packs));
}

#[test]
fn a_source_that_went_on_is_copied_again() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for round in 1..4 {
        grow(from.path(), (round - 1) * 2..round * 2);
        copy(from.path(), to.path()).unwrap();
        assert_holds(to.path(), 0..round * 2);
    }
}

#[test]
fn a_torn_tail_is_left_behind() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..2);
    let (_, unsealed) = packs_of(from.path());
    let mut bytes = fs::read(&unsealed[0]).unwrap();
    bytes.extend([1; 77]);
    fs::write(&unsealed[0], &bytes).unwrap();
    assert_eq!(copy(from.path(), to.path()).unwrap().torn, 77);
    assert_eq!(fs::read(&unsealed[0]).unwrap(), bytes, "the source was changed");
    assert_holds(to.path(), 0..2);
}

#[test]
fn a_copy_that_was_cut_off_is_no_store_until_it_goes_on() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..6);
    let (sealed, unsealed) = packs_of(from.path());
    let total = sealed.len() + unsealed.len();
    assert!(total >= 3, "{total}");
    for done in 1..total {
        let target = Failing { packs: packs(to.path()), left: AtomicUsize::new(1) };
        let cut = copy_packs(&packs(from.path()), &target, "the old place", &mut |_| ());
        assert!(matches!(cut, Err(CopyError::Pack { .. })), "{cut:?}");
        assert_eq!(packs_of(to.path()).0.len(), done);
        let refused = open(to.path()).err().unwrap();
        assert!(matches!(&refused, StoreError::UnfinishedCopy { from } if from == "the old place"));
        assert!(copy(to.path(), &to.path().join("third")).is_err(), "half a store was copied on");
    }
    let report = copy(from.path(), to.path()).unwrap();
    assert_eq!((report.packs, report.present), (1, total as u64 - 1));
    assert_holds(to.path(), 0..6);
}

#[test]
fn two_stores_are_not_merged() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..4);
    grow(to.path(), 4..8);
    let before = packs_of(to.path());
    let refused = copy(from.path(), to.path());
    assert!(matches!(refused, Err(CopyError::OtherStore { .. })), "{refused:?}");
    assert_eq!(packs_of(to.path()), before);
    assert_holds(to.path(), 4..8);
}

#[test]
fn a_target_that_went_its_own_way_is_another_store() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..4);
    copy(from.path(), to.path()).unwrap();
    grow(to.path(), 4..5);
    assert!(matches!(copy(from.path(), to.path()), Err(CopyError::OtherStore { .. })));
}

#[test]
fn a_pack_of_another_length_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..4);
    copy(from.path(), to.path()).unwrap();
    let (sealed, _) = packs_of(from.path());
    let there = to.path().join("packs").join(sealed[0].file_name().unwrap());
    let bytes = fs::read(&there).unwrap();
    fs::write(&there, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(copy(from.path(), to.path()), Err(CopyError::Differs { .. })));
}

#[test]
fn a_damaged_pack_is_not_copied_and_all_others_are() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grow(from.path(), 0..6);
    let (sealed, _) = packs_of(from.path());
    let whole = fs::read(&sealed[0]).unwrap();
    let mut rotten = whole.clone();
    rotten[1000] ^= 1;
    fs::write(&sealed[0], rotten).unwrap();
    let report = copy(from.path(), to.path()).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.packs > 0);
    assert!(!to.path().join("packs").join(sealed[0].file_name().unwrap()).exists());
    assert!(matches!(open(to.path()), Err(StoreError::UnfinishedCopy { .. })));
    fs::write(&sealed[0], whole).unwrap();
    assert!(copy(from.path(), to.path()).unwrap().problems.is_empty());
    assert_holds(to.path(), 0..6);
}

/// Takes so many packs, and then fails.
struct Failing {
    packs: LocalPacks,
    left: AtomicUsize,
}

impl PackBackend for Failing {
    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()> {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map_err(|_| io::Error::other("cut off"))?;
        self.packs.put(id, pack)
    }

    fn durability(&self) -> Durability {
        self.packs.durability()
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        self.packs.list()
    }

    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>> {
        self.packs.open(id, sealed)
    }

    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>> {
        self.packs.create(id)
    }

    fn reopen(&self, id: PackId, len: u64) -> io::Result<Arc<dyn AppendPack>> {
        self.packs.reopen(id, len)
    }

    fn discard(&self, id: PackId) -> io::Result<()> {
        self.packs.discard(id)
    }
    fn remove(&self, id: PackId) -> io::Result<()> {
        self.packs.remove(id)
    }

    fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        self.packs.stat(id)
    }

    fn note(&self, name: &str) -> io::Result<Option<String>> {
        self.packs.note(name)
    }

    fn set_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.packs.set_note(name, text)
    }

    fn tidy(&self, older_than: Duration) -> io::Result<u64> {
        self.packs.tidy(older_than)
    }

    fn check(&self) -> io::Result<()> {
        self.packs.check()
    }
}
