//! What a door sees of a cache.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use castore::Digest;
use castore::tree::{ChunkRef, Tree};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};

use crate::order::Order;

/// A store path whose tree is known and trusted.
#[derive(Debug)]
pub struct LazyPath {
    /// What is known of it.
    pub info: Arc<PathInfo>,
    /// Everything below it but the bytes of its files.
    pub tree: Arc<Tree>,
    /// The chunks of files that are more than one.
    lists: HashMap<Digest, Box<[ChunkRef]>>,
    order: OnceLock<Order>,
    /// Whether it came as a NAR, so that its chunks can be had again in no other way.
    whole: bool,
}

impl LazyPath {
    /// A path whose tree has been checked. `lists` has the chunk list of every blob that the tree names
    /// one for, unless the view reads files in another way.
    pub fn new(
        info: Arc<PathInfo>,
        tree: Arc<Tree>,
        lists: HashMap<Digest, Box<[ChunkRef]>>,
    ) -> Self {
        Self { info, tree, lists, order: OnceLock::new(), whole: false }
    }

    /// The same path, made of a NAR that was verified whole.
    pub(crate) fn of_nar(self) -> Self {
        Self { whole: true, ..self }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The chunks of a file, in order.
    pub(crate) fn chunks(&self, file: &FileRef) -> Option<Cow<'_, [ChunkRef]>> {
        if file.size == 0 {
            return Some(Cow::Borrowed(&[]));
        }
        if let Some(list) = self.lists.get(&file.digest) {
            return Some(Cow::Borrowed(list));
        }
        let (digest, size) = (file.digest, u32::try_from(file.size).ok()?);
        let whole = self.tree.list_of(&digest).is_none();
        whole.then(|| Cow::Owned(vec![ChunkRef { digest, size, patches: Vec::new() }]))
    }

    /// What it takes in memory, in encoded bytes of trees: chunks weigh about a third of what they and
    /// their numbers take.
    pub(crate) fn weight(&self) -> u64 {
        let chunks: usize = self.lists.values().map(|list| list.len()).sum();
        self.tree.weight() as u64 + 64 * chunks as u64
    }

    /// The path's chunks in the order of its NAR.
    pub(crate) fn order(&self) -> &Order {
        self.order.get_or_init(|| Order::of(self))
    }
}

/// The contents of a file below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileRef {
    /// Digest of the whole.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// Why a view cannot answer. It is in the log already, with what a person can do about it; to a
/// program it is an I/O error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Nothing vouches for the path, or what vouches for it is wrong.
    #[error("{path} cannot be trusted: {why}")]
    Untrusted {
        /// The path.
        path: String,
        /// What is missing or wrong.
        why: String,
    },
    /// A whole file cannot be kept on this machine's disk; its contents can still be read.
    #[error("{what} cannot be kept whole in the cache directory: {why}")]
    NoRoom {
        /// What was to be kept.
        what: String,
        /// What happened.
        why: String,
    },
    /// The source did not answer in time, or not with what was asked for.
    #[error("{what} could not be read from {source_name}: {why}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Who was asked.
        source_name: String,
        /// What happened.
        why: String,
    },
}

/// A cache, as doors see it. Clones of what it gives out share memory.
///
/// The answers never change: a path that was there stays, and its contents do. A path may appear
/// that was not there before.
pub trait View: Send + Sync + 'static {
    /// Where its paths live.
    fn store_dir(&self) -> &StoreDir;

    /// What a person calls it: the cache's URL, or the directory.
    fn name(&self) -> &str;

    /// Every path, sorted; `None` when the source cannot list them or they are too many.
    fn paths(&self) -> impl Future<Output = Result<Option<Arc<Vec<StorePath>>>, ViewError>> + Send;

    /// What is known of a path, without its tree; `None` when there is no such path.
    fn info(
        &self,
        hash: StorePathHash,
    ) -> impl Future<Output = Result<Option<Arc<PathInfo>>, ViewError>> + Send;

    /// A path with its tree; `None` when there is no such path. Its closure comes along.
    fn path(
        &self,
        hash: StorePathHash,
    ) -> impl Future<Output = Result<Option<Arc<LazyPath>>, ViewError>> + Send;

    /// The same, if it can be told without waiting.
    fn path_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>>;

    /// The bytes of a file from `offset` on: `length` of them, fewer at its end.
    fn read(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> impl Future<Output = Result<Bytes, ViewError>> + Send;

    /// The same, if they are in memory or on this machine's disk. May read the disk, and decode.
    fn read_now(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Option<Bytes>;

    /// The same, for who only thinks that somebody may want them: it counts as nobody's read.
    fn peek(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Option<Bytes> {
        self.read_now(path, file, offset, length)
    }

    /// The whole file as a plain file on this machine's disk, verified, open for reading.
    fn materialise(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
    ) -> impl Future<Output = Result<Arc<File>, ViewError>> + Send;
}
