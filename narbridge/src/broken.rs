//! Trees that are known not to be all there, so that nobody is promised what cannot be sent.
//!
//! A path, or a NAR, whose tree, lists or chunks are damaged or missing is *broken*: readers are told that
//! it is not here, and pushers that it is missing. The next push brings what is lacking, and mends it.
//! That is a matter of its tree, which other paths and other caches may have as well, so trees are what is
//! marked. Marks are kept in memory and in the index only:
//!
//! ```text
//! broken/<digest of a tree>    when it was found, in seconds since 1970, in 8 big-endian bytes
//! ```
//!
//! An index that was remade has lost them; who reads, and the next scrub, finds them again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use castore::fsck::Damage;
use castore::{Cause, Digest, Place, Store, StoreError};

use crate::cache::CacheError;
use crate::fsck::Trees;
use crate::nar::NarError;
use crate::records::{BROKEN, broken_key};

/// Marks that are read at once.
const PAGE: usize = 1000;

/// The broken trees of a storehouse.
pub(crate) struct Broken {
    store: Arc<Store>,
    trees: RwLock<HashSet<Digest>>,
    /// How often that changed.
    changes: AtomicU64,
}

impl Broken {
    /// Reads what is known.
    pub fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let broken = Self { store, trees: RwLock::default(), changes: AtomicU64::new(0) };
        broken.refresh()?;
        Ok(broken)
    }

    /// Takes in what others have found and mended.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let (mut all, mut after) = (HashSet::new(), None::<Vec<u8>>);
        loop {
            let page = self.store.scan_derived(BROKEN, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page.iter().filter_map(|(key, _)| Digest::from_slice(&key[BROKEN.len()..])));
        }
        self.change(|trees| *trees = all);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Digest>)) {
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        if trees.is_empty() {
            // The usual case: nothing was, and nothing is.
            change(&mut trees);
            if trees.is_empty() {
                return;
            }
        } else {
            let before = trees.clone();
            change(&mut trees);
            if *trees == before {
                return;
            }
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Whether a tree is known to be broken.
    pub fn has(&self, tree: &Digest) -> bool {
        self.trees.read().unwrap_or_else(PoisonError::into_inner).contains(tree)
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Digest> {
        self.trees.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// A number that changes whenever a tree breaks or is mended.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether whoever brings a tree has to take its mark away: it has one, or may have one by others.
    pub fn may_have(&self, tree: &Digest) -> bool {
        self.store.is_shared() || self.has(tree)
    }

    /// Something of a tree could not be read. If that is because it is not all there, it is broken from
    /// now on. Blocks.
    pub fn suspect(&self, tree: &Digest) {
        let found = self.store.reach(Place::Packs).and_then(|()| self.look(tree));
        if let Err(error) = found {
            tracing::warn!(%error, %tree, "whether a tree is whole cannot be told");
        }
    }

    /// The same after an error of reading, if that is what it says.
    pub fn suspect_after(&self, tree: &Digest, error: &NarError) {
        if matches!(error, NarError::Store(error) if error.cause() == Cause::Lost) {
            self.suspect(tree);
        }
    }

    /// The same for an error of a cache.
    pub fn suspect_of(&self, tree: &Digest, error: &CacheError) {
        match error {
            CacheError::Nar(error) => self.suspect_after(tree, error),
            CacheError::Store(error) if error.cause() == Cause::Lost => self.suspect(tree),
            _ => {}
        }
    }

    /// Walks a tree, and marks it as what it turns out to be. Returns whether it is broken.
    pub fn look(&self, tree: &Digest) -> Result<bool, StoreError> {
        if self.is_whole(tree)? {
            if self.has(tree) {
                self.mend(tree)?;
            }
            return Ok(false);
        }
        if !self.has(tree) {
            self.store.remember(&broken_key(tree), &self.store.now().to_be_bytes())?;
            self.change(|trees| {
                trees.insert(*tree);
            });
            tracing::error!(%tree, "a tree is not all there: paths that have it count as missing");
            // Somebody may have brought it meanwhile, and not have seen the mark. Whoever brings it from
            // now on does.
            if self.is_whole(tree)? {
                self.mend(tree)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_whole(&self, tree: &Digest) -> Result<bool, StoreError> {
        Ok(Trees::new(&self.store, &Damage::default()).check(tree)?.is_ok())
    }

    fn mend(&self, tree: &Digest) -> Result<(), StoreError> {
        self.store.forget_all(&[broken_key(tree)])?;
        self.mended(tree);
        Ok(())
    }

    /// The mark of a tree has been taken away.
    pub fn mended(&self, tree: &Digest) {
        if self.has(tree) {
            self.change(|trees| {
                trees.remove(tree);
            });
            tracing::info!(%tree, "a tree that was broken is whole again");
        }
    }
}
