//! Pushing store paths: only what is missing travels.
//!
//! [`plan()`] asks the server which paths are missing; [`push()`] brings them, see
//! [`granary_api::push`]. Paths are scanned, asked about, sent and published at the same time and in
//! batches that grow with the latency of the line. A path is published after those it refers to, so
//! that at no time a reader finds a path without its references. Nothing is remembered on this side:
//! what was broken off is resumed by pushing again.

mod error;
mod message;
mod pipeline;
mod plan;
mod queue;
mod records;
mod scan;
mod supply;

use std::collections::HashSet;
use std::path::PathBuf;

use nix_compat::store_path::StorePath;

pub use error::PushError;
pub use pipeline::{push, push_from, push_into};
pub use plan::{Plan, PlanOptions, plan};
pub use scan::ScanError;
pub use supply::{Brought, Here, Supply};

/// Bodies stay below this, for the sake of proxies that cap them.
pub const DEFAULT_PART_SIZE: usize = 32 * 1024 * 1024;
/// What a body has to have room for: the largest chunk, or a message.
pub const MIN_PART_SIZE: usize = 1024 * 1024;
/// Scanned paths hold their trees and the places of their chunks: this is some 200 000 files.
const DEFAULT_MEMORY: usize = 64 * 1024 * 1024;

/// How to push.
#[derive(Clone, Copy, Debug)]
pub struct PushOptions {
    /// Paths that are scanned at the same time.
    pub jobs: usize,
    /// No body is longer, in bytes.
    pub part_size: usize,
    /// What scanned paths may take in memory before scanning waits, in bytes, about.
    pub memory: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Self { jobs, part_size: DEFAULT_PART_SIZE, memory: DEFAULT_MEMORY }
    }
}

/// News of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is being read.
    Started,
    /// So many more bytes of its NAR are at the server.
    Advanced(u64),
    /// It is in the cache.
    Published,
    /// It is not, and why.
    Failed(String),
}

/// Hears of every path, by its index in [`Plan::to_push`].
pub type Observer<'a> = &'a (dyn Fn(usize, Step) + Send + Sync);

/// Where a store path's files really are.
pub type Places<'a> = &'a (dyn Fn(&StorePath) -> PathBuf + Send + Sync);

/// What became of a push.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many paths were published.
    pub published: usize,
    /// Which.
    pub published_paths: HashSet<StorePath>,
    /// Paths that were not, and why.
    pub failed: Vec<(StorePath, String)>,
    /// Bytes read from files.
    pub read: u64,
    /// Chunks sent.
    pub chunks: u64,
}
