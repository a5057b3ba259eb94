//! What retention has to know of a cache's paths.

use std::iter::Peekable;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use castore::{Store, StoreError};
use nix_compat::store_path::StorePathHash;

use super::{Cache, CacheError};
use crate::accesses::seconds;
use crate::records::{PathRecord, RecordError, decode, path_prefix, used_prefix};
use crate::retention::{Facts, Gathering};

/// Facts and uses that are read at once.
const PAGE: usize = 1000;
/// Uses of paths that are gone, forgotten at once.
const FORGOTTEN: usize = 4096;

impl Cache {
    /// Whether a path was used since a plan was made at that time. Uses that other servers have not
    /// written yet are not known. Blocks.
    pub fn used_since_plan(
        &self,
        hash: StorePathHash,
        planned_at: u64,
    ) -> Result<bool, CacheError> {
        Ok(self.accesses.last(self.number, hash)? >= Some(planned_at))
    }

    /// To be held by who tells pushers that paths are there, or publishes what refers to them, until that is
    /// noted and done.
    pub(super) fn decide_among_others(&self) -> RwLockReadGuard<'_, ()> {
        self.accesses.deciding.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps these waiting, for as long as this is held: to be held between the last look at whether a path
    /// is used, and its removal.
    pub(crate) fn decide_alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.accesses.deciding.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a path was last used, in seconds since 1970, as far as it is known. An upload is none.
    /// Blocks.
    pub fn last_used(&self, hash: StorePathHash) -> Result<Option<u64>, CacheError> {
        Ok(self.accesses.last(self.number, hash)?)
    }

    /// All paths, with their last uses as they are written. What was used before `used_since` is not
    /// known, nor what would have been used while the cache was destroyed. Uses of paths that are gone are
    /// forgotten on the way. Blocks.
    pub(crate) fn gather_paths(&self, used_since: u64) -> Result<Gathering, CacheError> {
        let used_since = used_since.max(self.restored);
        let mut paths = Gathering::default();
        let mut uses = Uses::new(&self.store, self.number).peekable();
        let mut gone = Vec::new();
        self.store.each_fact(&path_prefix(self.number), |key, fact| {
            let hash = hash_of(key)?;
            let record: PathRecord = decode(&format!("path {hash}"), &fact.value)?;
            let used = skip_to(&mut uses, hash, &mut gone)?;
            let facts = Facts {
                used: used.unwrap_or_default().max(record.uploaded).max(used_since),
                uploaded: record.uploaded,
                size: record.file_size,
                sequence: fact.sequence,
            };
            paths.add(hash, facts, record.reference_hashes())?;
            if gone.len() >= FORGOTTEN {
                self.store.forget_all(&std::mem::take(&mut gone))?;
            }
            Ok::<_, CacheError>(())
        })?;
        for used in uses {
            gone.push(used?.key);
        }
        self.store.forget_all(&gone)?;
        Ok(paths)
    }
}

/// The use of a path, and the keys of those that come before it and are nobody's.
fn skip_to(
    uses: &mut Peekable<Uses<'_>>,
    hash: StorePathHash,
    gone: &mut Vec<Vec<u8>>,
) -> Result<Option<u64>, CacheError> {
    // In the order of keys, which is not that of the hashes' texts. An error comes before everything.
    let is_due = |used: &Used| used.hash.as_bytes() <= hash.as_bytes();
    while let Some(used) = uses.next_if(|used| used.as_ref().map_or(true, is_due)) {
        let used = used?;
        if used.hash == hash {
            return Ok(used.time);
        }
        gone.push(used.key);
    }
    Ok(None)
}

/// A use as it is written.
struct Used {
    key: Vec<u8>,
    hash: StorePathHash,
    time: Option<u64>,
}

/// The uses of a cache's paths, in the order of their keys.
struct Uses<'a> {
    store: &'a Store,
    prefix: Vec<u8>,
    page: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
    /// The last key that was read; `None` before the first.
    after: Option<Vec<u8>>,
    done: bool,
}

impl<'a> Uses<'a> {
    fn new(store: &'a Store, cache: u32) -> Self {
        let prefix = used_prefix(cache);
        Self { store, prefix, page: Vec::new().into_iter(), after: None, done: false }
    }

    fn turn_page(&mut self) -> Result<(), StoreError> {
        let page = self.store.scan_derived(&self.prefix, self.after.as_deref(), PAGE)?;
        self.done = page.len() < PAGE;
        self.after = page.last().map(|(key, _)| key.clone());
        self.page = page.into_iter();
        Ok(())
    }
}

impl Iterator for Uses<'_> {
    type Item = Result<Used, CacheError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0
            && !self.done
            && let Err(error) = self.turn_page()
        {
            self.done = true;
            return Some(Err(error.into()));
        }
        let (key, value) = self.page.next()?;
        let time = seconds(&value);
        let hash = hash_of(&key[self.prefix.len()..]);
        Some(hash.map(|hash| Used { key, hash, time }).map_err(CacheError::from))
    }
}

fn hash_of(bytes: &[u8]) -> Result<StorePathHash, RecordError> {
    let hash: Result<[u8; 20], _> = bytes.try_into();
    hash.map(StorePathHash::from).map_err(|_| RecordError::new("a path", "its key is not a hash"))
}
