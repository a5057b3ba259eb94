//! The store: packs, locations, index and facts as one thing.
//!
//! ```text
//! DIR/lock               held while a process has the store open
//! DIR/packs/             the store
//! DIR/index/             a view of it, remade when missing
//!     boot               which boot opened the index, and whether it was closed
//!     sled/              facts
//!     locations/         merged segments
//! ```

mod open;
mod read;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use open::{OpenProgress, Options, lock};
pub use read::Reader;

use crate::Digest;
use crate::facts::{self, CommitError, Fact, Facts, Transaction};
use crate::index::{Batch, Index, IndexError};
use crate::locations::{Location, Locations};
use crate::log::{Log, Run};
use crate::pack::{Kind, PackError};
use crate::packs::Packs;
use crate::tree::{Tree, TreeError};
use crate::upload::Upload;
use crate::workers::Workers;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of the store could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("{} is in use by another granary process: stop that one first", .0.display())]
    Locked(PathBuf),
    /// Not all packs of the store that is being copied here have come.
    #[error("the copy of {from} to here has not finished: run granary copy-store again")]
    UnfinishedCopy {
        /// What is copied.
        from: String,
    },
    /// A pack is damaged, or could not be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A record was found whose bytes are not what its name says.
    #[error("{kind:?} {digest} is damaged: {what}")]
    Damaged {
        /// What it is.
        kind: Kind,
        /// Its name.
        digest: Digest,
        /// What is wrong.
        what: String,
    },
    /// A record is not in the store.
    #[error("{kind:?} {digest} is not in the store")]
    Missing {
        /// What it is.
        kind: Kind,
        /// Its name.
        digest: Digest,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A change could not be made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record does not hold what it should.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Reading or writing records failed.
    #[error("the packs could not be read or written: {0}")]
    Io(#[from] io::Error),
}

/// What the decoded trees held in memory may weigh, in encoded bytes (they take about three times
/// as much).
const TREE_CACHE: u64 = 16 * 1024 * 1024;

/// Content-addressed storage.
pub struct Store {
    facts: Facts,
    index: Arc<dyn Index>,
    locations: Arc<Locations>,
    log: Arc<Log>,
    packs: Arc<Packs>,
    trees: quick_cache::sync::Cache<Digest, Arc<Tree>, TreeWeight>,
    workers: Workers,
    boot_mark: PathBuf,
    _lock: File,
}

#[derive(Clone)]
struct TreeWeight;

impl quick_cache::Weighter<Digest, Arc<Tree>> for TreeWeight {
    fn weight(&self, _: &Digest, tree: &Arc<Tree>) -> u64 {
        256 + tree.weight() as u64
    }
}

impl Store {
    /// Starts to take a tree in.
    pub fn upload(self: &Arc<Self>) -> Upload {
        Upload::new(self.clone())
    }

    /// Where a record lies, if it is there.
    pub fn locate(&self, kind: Kind, digest: &Digest) -> Result<Option<Location>, StoreError> {
        Ok(self.locations.find(digest, kind)?)
    }

    /// What a key holds.
    pub fn fact(&self, key: &[u8]) -> Result<Option<Fact>, StoreError> {
        Ok(self.facts.get(key)?)
    }

    /// Up to `limit` facts whose key starts with `prefix` and sorts after `after`, in order.
    pub fn scan_facts(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Fact)>, StoreError> {
        Ok(self.facts.scan(prefix, after, limit)?)
    }

    /// Makes changes durable and visible, with everything that was uploaded before. Blocks.
    pub fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        self.facts.commit(transaction)
    }

    /// A value that could be derived again: kept in the index only.
    pub fn derived(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.index.get(&derived_key(key))?)
    }

    /// Remembers a derived value.
    pub fn remember(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(derived_key(key), value);
        Ok(self.index.apply(&batch)?)
    }

    pub(crate) fn packs(&self) -> &Packs {
        &self.packs
    }

    /// The sequence number of the last transaction that the index shows.
    pub(crate) fn applied(&self) -> Result<u64, StoreError> {
        Ok(facts::applied(&*self.index)?)
    }

    pub(crate) fn append(&self, run: &Run) -> io::Result<()> {
        self.log.append(run)
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }
}

fn derived_key(key: &[u8]) -> Vec<u8> {
    [b"d", key].concat()
}

impl Drop for Store {
    fn drop(&mut self) {
        // Order matters: the mark says that the index has everything and is on disk.
        let closed = self.log.sync().is_ok() && self.index.flush().is_ok();
        if closed && let Err(error) = open::mark_closed(&self.boot_mark) {
            tracing::warn!(%error, "the index could not be marked as closed");
        }
    }
}
