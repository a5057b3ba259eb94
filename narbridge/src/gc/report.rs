//! What a run did, or would do.

use std::time::Duration;

use castore::gc::{PackPlan, PackUse, Swept, Tidied};
use granary_api::gc::CacheReport;

/// What a run did, or would do.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The caches of which something may go.
    pub caches: Vec<CacheReport>,
    /// Uploaded NARs that no path is made from, and that go.
    pub nars: u64,
    /// Logs, debug info and realisations of what is gone, that go with it.
    pub files: u64,
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
            caches: self.caches.clone(),
            nars: self.nars,
            files: self.files,
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

fn told(used: &PackUse) -> granary_api::gc::PackUse {
    granary_api::gc::PackUse { packs: used.packs, bytes: used.bytes, needed: used.needed }
}
