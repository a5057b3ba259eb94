//! The store: packs, locations, index and facts as one thing.
//!
//! ```text
//! DIR/lock               held while a process has the store open
//! DIR/packs/             the store, unless it is elsewhere
//! DIR/index/             a view of it, remade when missing
//!     boot               which boot opened the index, and whether it was closed
//!     sled/              facts, unless the index is elsewhere
//!     locations/         merged segments
//! DIR/index-id           goes with packs elsewhere, see [`owner`]
//! ```
//!
//! Packs may lie on a local disk ([`appended`]) or be objects elsewhere ([`objects`]); the index may
//! be shared by several processes that have one store ([`members`]), each with a folder of its own.

mod appended;
mod cause;
mod derived;
mod health;
mod members;
mod objects;
mod open;
mod owner;
mod parallel;
mod read;
mod replay;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use cause::Cause;
pub use health::Place;
pub use open::{OpenProgress, Options, lock};
pub use read::Reader;

use crate::facts::{self, CommitError, Fact, Facts, Transaction};
use crate::gc::condemned::Seen;
use crate::gc::lease::Leases;
use crate::index::{Batch, Held, Index, IndexError};
use crate::locations::{Location, Locations};
use crate::log::{Log, Run};
use crate::pack::{Kind, PackError, PackId};
use crate::packs::Packs;
use crate::registry::Registry;
use crate::tree::{Tree, TreeError};
use crate::upload::Upload;
use crate::workers::Workers;
use crate::{Clock, Digest};

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
    /// The packs are the view of another index.
    #[error(
        "the packs belong to another index, or to this one before it was emptied: if no server uses \
         them with another index, remake this one with `granary fsck --rebuild`"
    )]
    ForeignIndex,
    /// Other processes have the same store open.
    #[error("other granary processes use this index: stop them first")]
    InUse,
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

/// Facts that are read at once where all are wanted.
const FACTS_AT_ONCE: usize = 1000;

/// Content-addressed storage.
pub struct Store {
    pub(crate) facts: Facts,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) locations: Arc<Locations>,
    pub(crate) log: Arc<Log>,
    pub(crate) packs: Arc<Packs>,
    /// What others make known, where packs are objects.
    registry: Option<Arc<Registry>>,
    flushes: members::Flushes,
    pub(crate) condemned: Seen,
    pub(crate) leases: Arc<Leases>,
    pub(crate) clock: Clock,
    trees: quick_cache::sync::Cache<Digest, Arc<Tree>, TreeWeight>,
    workers: Workers,
    /// Where it is noted that an embedded index was closed.
    boot_mark: Option<PathBuf>,
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
    pub fn upload(self: &Arc<Self>) -> Result<Upload, StoreError> {
        Ok(Upload::new(self.clone(), self.flight()?))
    }

    /// The time, in seconds since 1970, by the clock that the store was opened with.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// That clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where a record lies, if it is there.
    pub fn locate(&self, kind: Kind, digest: &Digest) -> Result<Option<Location>, StoreError> {
        Ok(self.locations.find(digest, kind)?)
    }

    /// Where a record lies that something names, so that it has to be there: it may have come
    /// through another process.
    pub fn find(&self, kind: Kind, digest: &Digest) -> Result<Location, StoreError> {
        if let Some(found) = self.locate(kind, digest)? {
            return Ok(found);
        }
        self.catch_up()?;
        let missing = StoreError::Missing { kind, digest: *digest };
        self.locate(kind, digest)?.ok_or(missing)
    }

    /// How often records have moved so far. Where a record lies holds as long as this is the same; it can
    /// be read with an older location as well, which takes longer.
    pub fn moves(&self) -> u64 {
        self.packs.gone_so_far()
    }

    /// What a key holds.
    pub fn fact(&self, key: &[u8]) -> Result<Option<Fact>, StoreError> {
        Ok(self.facts.get(key)?)
    }

    /// For each key, whether there is such a fact.
    pub fn facts_exist(&self, keys: &[Vec<u8>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.facts.exist(keys)?)
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

    /// Gives every fact whose key starts with `prefix` to `each`, in order, the prefix taken off its key.
    pub fn each_fact<E: From<StoreError>>(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], Fact) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan_facts(prefix, after.as_deref(), FACTS_AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            page.into_iter().try_for_each(|(key, fact)| each(&key[prefix.len()..], fact))?;
        }
    }

    /// Makes changes durable and visible, with everything that was uploaded before. Blocks.
    pub fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        self.facts.commit(transaction)
    }

    /// The same for several transactions that do not build on each other, each by itself. Blocks.
    pub fn commit_all(&self, transactions: Vec<Transaction>) -> Vec<Result<u64, CommitError>> {
        self.facts.commit_all(transactions)
    }

    /// The sequence number of the last transaction that touched a topic, whoever made it.
    pub fn last_touched(&self, topic: &str) -> Result<u64, StoreError> {
        Ok(self.facts.last_touched(topic)?)
    }

    /// Removes what interrupted uploads of packs left behind in the place where packs lie, if that is
    /// older than so long. Returns how many there were. Blocks.
    pub fn tidy(&self, older_than: Duration) -> Result<u64, StoreError> {
        Ok(self.packs.backend().tidy(older_than)?)
    }

    /// The sequence number of the last transaction that is visible here.
    pub fn last_sequence(&self) -> Result<u64, StoreError> {
        self.applied()
    }

    /// A lock for work that only one of the processes may do at a time: `None` when another one has
    /// it. Blocks for a moment.
    pub fn try_exclusive(&self, work: &str) -> Result<Option<Exclusive>, StoreError> {
        let Some(shared) = self.index.shared() else { return Ok(Some(Exclusive { held: None })) };
        Ok(shared.try_lock(work)?.map(|held| Exclusive { held: Some(held) }))
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

    /// Sequence numbers that were given out for nothing, and that no record says so of yet.
    pub(crate) fn void(&self) -> Result<Vec<facts::Sequences>, StoreError> {
        Ok(facts::void(&*self.index)?)
    }

    pub(crate) fn append(&self, run: &Run) -> io::Result<Option<PackId>> {
        self.log.append(run)
    }

    pub(crate) fn append_missing(&self, run: &Run, last: u64) -> io::Result<Option<PackId>> {
        self.log.append_missing(run, last)
    }

    /// Makes everything durable that was appended before.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.log.sync()
    }

    pub(crate) fn registry(&self) -> Option<&Registry> {
        self.registry.as_deref()
    }

    /// Forgets a tree that was read before.
    pub(crate) fn forget_tree(&self, digest: &Digest) {
        self.trees.remove(digest);
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }
}

/// The right to do some work alone. It ends when this is dropped.
pub struct Exclusive {
    held: Option<Box<dyn Held>>,
}

impl Exclusive {
    /// Whether it still holds: a connection that breaks ends it.
    pub fn holds(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_held())
    }
}

fn derived_key(key: &[u8]) -> Vec<u8> {
    [b"d", key].concat()
}

impl Drop for Store {
    fn drop(&mut self) {
        // Order matters: the mark says that the index has everything and is on disk.
        let closed = self.log.sync().is_ok() && self.index.flush().is_ok();
        if closed
            && let Some(mark) = &self.boot_mark
            && let Err(error) = open::mark_closed(mark)
        {
            tracing::warn!(%error, "the index could not be marked as closed");
        }
    }
}
