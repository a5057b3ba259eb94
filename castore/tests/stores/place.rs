//! A place for stores in which things go wrong, and what is collected there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use castore::gc::{Live, Pace, SweepOptions, Swept};
use castore::pack::PackId;
use castore::{Clock, Digest, Expected, Store, StoreError, Transaction};
use tempfile::TempDir;

use super::faults::{Folder, Shaky, open};
use super::{noise, put, upload};

pub const TARGET: u64 = 300_000;

/// A place for a store.
pub struct Place {
    pub dir: TempDir,
    pub packs: Arc<Folder>,
    pub index: Arc<Shaky>,
}

impl Place {
    pub fn bucket() -> Self {
        Self::new(Folder::bucket)
    }

    pub fn disk() -> Self {
        Self::new(Folder::disk)
    }

    fn new(packs: impl Fn(&Path) -> Arc<Folder>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packs = packs(&dir.path().join("packs"));
        let index = Shaky::open(&dir.path().join("index"));
        Self { dir, packs, index }
    }

    /// A process with a folder of its own.
    pub fn open(&self, name: &str) -> Arc<Store> {
        self.open_at(name, Clock::default())
    }

    pub fn path(&self, id: PackId) -> PathBuf {
        self.dir.path().join("packs").join(format!("{id}.pack"))
    }

    /// The one pack that names this.
    pub fn holder_of(&self, digest: &Digest) -> PackId {
        let mut packs = self.packs.ids();
        let names = |bytes: Vec<u8>| bytes.windows(32).any(|bytes| bytes == digest.as_bytes());
        packs.retain(|id| names(std::fs::read(self.path(*id)).unwrap()));
        assert_eq!(packs.len(), 1);
        packs[0]
    }

    pub fn open_at(&self, name: &str, clock: impl Into<Clock>) -> Arc<Store> {
        open(&self.dir.path().join(name), &self.packs, &self.index, clock, TARGET)
    }
}

pub fn files(seed: u64) -> Vec<Vec<u8>> {
    vec![noise(seed, 150_000), noise(seed + 1000, 40_000)]
}

pub fn fill(store: &Arc<Store>, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let uploaded = upload(store, &files(seed));
        put(store, &[seed as u8], uploaded.tree.as_bytes());
    }
}

/// Two small files to a pack, where packs are objects.
pub fn fill_pairs(store: &Arc<Store>, seeds: std::ops::Range<u64>) {
    for pair in seeds.step_by(2) {
        let both = [pair, pair + 1].map(|seed| (seed, upload(store, &[noise(seed, 60_000)])));
        for (seed, uploaded) in &both {
            put(store, &[*seed as u8], uploaded.tree.as_bytes());
        }
    }
}

pub fn remove(store: &Store, seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        let mut transaction = Transaction::default();
        transaction.remove(vec![seed as u8], Expected::Anything);
        store.commit(transaction).unwrap();
    }
}

/// Marks the trees of all facts.
pub fn mark(store: &Arc<Store>) -> Live {
    let mut live = store.live().unwrap();
    for (_, fact) in store.scan_facts(b"", None, 10_000).unwrap() {
        live.tree(&Digest::from_slice(&fact.value).unwrap(), &[]).unwrap();
    }
    live
}

pub fn sweep_after(store: &Arc<Store>, grace: Duration) -> Result<Swept, StoreError> {
    let live = mark(store);
    store.sweep(&live, SweepOptions { grace, pace: Pace::unbound(), progress: &mut |_, _| () })
}

pub fn sweep(store: &Arc<Store>) -> Result<Swept, StoreError> {
    sweep_after(store, Duration::ZERO)
}

pub fn condemn(store: &Arc<Store>) -> Result<u64, StoreError> {
    store.seal_open()?;
    let plan = store.plan_packs(&mark(store), 0.0)?;
    store.condemn_planned(&plan)?;
    Ok(plan.condemn.packs)
}

/// Every tree that a fact names can be read to the last byte.
pub fn assert_whole(store: &Arc<Store>, seeds: impl Iterator<Item = u64>) {
    let mut reader = store.reader().unwrap();
    for seed in seeds {
        let fact = store.fact(&[seed as u8]).unwrap().unwrap();
        let tree = store.tree(&Digest::from_slice(&fact.value).unwrap()).unwrap();
        for (blob, size) in tree.files() {
            let mut read = Vec::new();
            for chunk in store.chunks_of(&tree, &blob, size).unwrap() {
                reader.append_chunk(&chunk, &mut read).unwrap();
            }
            assert_eq!(Digest::of(&read), blob);
        }
    }
}

pub fn odd(seeds: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    seeds.filter(|seed| seed % 2 == 1)
}

pub fn even(seeds: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    seeds.filter(|seed| seed % 2 == 0)
}
