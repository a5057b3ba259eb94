//! What a run did, or would do.

use std::time::Duration;

use castore::gc::{PackPlan, PackUse, Swept, Tidied};

/// What becomes of a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Its name.
    pub name: String,
    /// Whether it was destroyed, and all of it goes.
    pub destroyed: bool,
    /// Paths that stay.
    pub kept: u64,
    /// Their NARs as zstd, in bytes.
    pub kept_size: u64,
    /// Those among them that pins keep.
    pub pinned: u64,
    /// Paths that go because they were not used for too long.
    pub unused: u64,
    /// Paths that go because they are too old.
    pub old: u64,
    /// Paths that go because the cache is too large.
    pub for_space: u64,
    /// The NARs of those that go as zstd, in bytes.
    pub gone_size: u64,
    /// Paths that were to go, and were used or pushed again at the last moment.
    pub spared: u64,
}

impl CacheReport {
    /// Paths that go.
    pub fn gone(&self) -> u64 {
        self.unused + self.old + self.for_space
    }
}

/// What a run did, or would do.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The caches of which something may go.
    pub caches: Vec<CacheReport>,
    /// Uploaded NARs that no path is made from, and that go.
    pub nars: u64,
    /// Trees that are needed.
    pub trees: u64,
    /// Trees and lists that are needed and lost: granary fsck says which paths they belong to.
    pub lost: u64,
    /// Whether no pack is written anew, because a tree or list is not there at all.
    pub blocked: bool,
    /// The packs, and which of them were condemned by this run.
    pub packs: PackPlan,
    /// What came of the packs that had been condemned.
    pub swept: Swept,
    /// What was put in order where packs are objects.
    pub tidied: Tidied,
    /// Bytes of memory that marking took.
    pub memory: u64,
}

impl GcReport {
    /// Paths that go.
    pub fn paths(&self) -> u64 {
        self.caches.iter().map(CacheReport::gone).sum()
    }

    /// Their NARs as zstd, in bytes.
    pub fn paths_size(&self) -> u64 {
        self.caches.iter().map(|cache| cache.gone_size).sum()
    }

    /// The same for whoever asked, with how long it took.
    pub fn told(&self, took: Duration) -> granary_api::gc::GcReport {
        let swept = &self.swept;
        granary_api::gc::GcReport {
            dry_run: self.dry_run,
            paths: self.paths(),
            paths_size: self.paths_size(),
            caches: self.caches.iter().map(CacheReport::told).collect(),
            nars: self.nars,
            trees: self.trees,
            lost: self.lost,
            blocked: self.blocked,
            packs: told(&self.packs.all),
            condemned: told(&self.packs.condemn),
            waiting: told(&self.packs.condemned),
            leased: told(&self.packs.leased),
            removed: swept.packs,
            removed_bytes: swept.bytes,
            moved_bytes: swept.moved,
            freed_bytes: swept.freed(),
            held: swept.waiting,
            held_by_uploads: swept.held_by_uploads,
            damaged: swept.damaged,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            memory: self.memory,
        }
    }
}

impl CacheReport {
    fn told(&self) -> granary_api::gc::CacheReport {
        granary_api::gc::CacheReport {
            name: self.name.clone(),
            destroyed: self.destroyed,
            kept: self.kept,
            kept_size: self.kept_size,
            pinned: self.pinned,
            unused: self.unused,
            old: self.old,
            for_space: self.for_space,
            gone_size: self.gone_size,
            spared: self.spared,
        }
    }
}

fn told(used: &PackUse) -> granary_api::gc::PackUse {
    granary_api::gc::PackUse { packs: used.packs, bytes: used.bytes, needed: used.needed }
}
