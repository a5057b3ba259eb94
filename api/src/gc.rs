//! Garbage collection, asked for.

use serde::{Deserialize, Serialize};

/// How to collect. What is absent is as the server is configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collect {
    /// Seconds for which what nothing names any more stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<u64>,
    /// The share of what is kept, from 0 to 1, that may lie around unneeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unneeded: Option<f64>,
    /// Bytes per second that may be read and written for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What came of it. Before it, while there is nothing to say, white space comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collected {
    /// It was done.
    Done(Box<GcReport>),
    /// A collection is under way already, here or on another server.
    Busy,
    /// It failed, for this reason. What was done until then stays done.
    Failed(String),
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Paths that went, from all caches.
    pub paths: u64,
    /// Their NARs as zstd, in bytes.
    pub paths_size: u64,
    /// The caches of which something may go.
    pub caches: Vec<CacheReport>,
    /// Uploaded NARs that no path is made from, and that went.
    pub nars: u64,
    /// Logs, debug info and realisations of what is gone, that went with it.
    pub files: u64,
    /// Trees that are needed.
    pub trees: u64,
    /// Trees and chunk lists that are needed and lost.
    pub lost: u64,
    /// Whether no pack is written anew, because a tree or list is not there at all: a pack may be missing.
    pub blocked: bool,
    /// The sealed packs.
    pub packs: PackUse,
    /// Those that were condemned by this run: they are written anew when the grace period is over.
    pub condemned: PackUse,
    /// Those that had been condemned before and still were when this run looked.
    pub waiting: PackUse,
    /// Those that are left alone, because what lies in them was sent and is not published yet.
    pub leased: PackUse,
    /// Packs that were removed.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes that were copied out of them.
    pub moved_bytes: u64,
    /// Bytes that came back.
    pub freed_bytes: u64,
    /// Condemned packs whose time has not come.
    pub held: u64,
    /// Those among them that wait for uploads under way alone.
    pub held_by_uploads: u64,
    /// Records that were left behind because they are damaged.
    pub damaged: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// Bytes of memory that marking took.
    pub memory: u64,
}

/// How much of some packs is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackUse {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// So many of them are needed.
    pub needed: u64,
}

/// What became of a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheReport {
    /// Its name.
    pub name: String,
    /// Whether it was destroyed, and all of it went.
    pub destroyed: bool,
    /// Paths that stay.
    pub kept: u64,
    /// Their NARs as zstd, in bytes.
    pub kept_size: u64,
    /// Those among them that pins keep.
    pub pinned: u64,
    /// Paths that went because they were not used for too long.
    pub unused: u64,
    /// Paths that went because they were too old.
    pub old: u64,
    /// Paths that went because the cache was too large, or destroyed.
    pub for_space: u64,
    /// The NARs of those that went as zstd, in bytes.
    pub gone_size: u64,
    /// Paths that were to go, and were used or pushed again at the last moment.
    pub spared: u64,
}

impl CacheReport {
    /// Paths that went.
    pub fn gone(&self) -> u64 {
        self.unused + self.old + self.for_space
    }
}
