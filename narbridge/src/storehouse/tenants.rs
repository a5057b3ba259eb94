//! Caches: made, changed, destroyed and restored.
//!
//! Each is one fact. A change reads it, and is committed only if nobody else changed it meanwhile;
//! when it is durable, a new [`Cache`] takes the place of the old one, on which requests under way
//! finish.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use castore::{CommitError, Expected, StoreError, Transaction};
use nix_compat::signature::SigningKey;
use prost::Message;

use super::fresh::CACHES;
use super::{Caches, Storehouse, StorehouseError};
use crate::cache::{Cache, CacheChanges, CacheName, CacheSettings};
use crate::records::{CacheRecord, LAST_NUMBER, cache_key, decode};

/// How often a cache that is to be moved is found in use before that is said, and the time between.
const MOVE_ATTEMPTS: u32 = 50;
const MOVE_PAUSE: Duration = Duration::from_millis(20);

impl Storehouse {
    /// Makes a cache, with this key pair or a new one.
    pub fn create_cache(
        &self,
        name: &CacheName,
        settings: &CacheSettings,
        key: Option<SigningKey>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        settings.check()?;
        let mut record = CacheRecord {
            keys: vec![self.seal_key(name, key)?],
            created: self.store.now(),
            ..Default::default()
        };
        settings.write_to(&mut record);
        loop {
            if let Some(taken) = self.store.fact(&cache_key(name.as_str()))? {
                let taken: CacheRecord = decode(&format!("cache {name}"), &taken.value)?;
                return Err(match taken.destroyed {
                    None => StorehouseError::Exists(name.clone()),
                    Some(_) => StorehouseError::Destroyed(name.clone()),
                });
            }
            // The number is read and raised in the same transaction, so that no two caches share it.
            let last = self.store.fact(LAST_NUMBER)?;
            record.number = last.as_ref().map_or(0, |fact| number_of(&fact.value)) + 1;
            let cache = self.make(name, &record, None)?;
            let mut transaction = Transaction::default();
            let number = record.number.to_be_bytes().to_vec();
            transaction.put(LAST_NUMBER.to_vec(), number, Expected::as_read(last.as_ref()));
            transaction.put(cache_key(name.as_str()), record.encode_to_vec(), Expected::Absent);
            transaction.touch(CACHES);
            match self.store.commit(transaction) {
                Ok(sequence) => return Ok(put(&mut self.write_caches(), cache.since(sequence))),
                Err(CommitError::Conflict) => continue,
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }

    /// Changes the settings of a cache. Who asks for the cache from now on gets them.
    pub fn configure_cache(
        &self,
        name: &CacheName,
        changes: &CacheChanges,
    ) -> Result<Arc<Cache>, StorehouseError> {
        let change = |record: &mut CacheRecord| {
            let mut settings = CacheSettings::of_record(&format!("cache {name}"), record)?;
            changes.apply(&mut settings);
            settings.check()?;
            settings.write_to(record);
            Ok(())
        };
        match &changes.store_dir {
            Some(dir) if self.live(name)?.store_dir() != dir => self.move_cache(name, change),
            _ => self.change_cache(name, change),
        }
    }

    /// Makes a cache be as if it did not exist, until it is restored.
    pub fn destroy_cache(&self, name: &CacheName) -> Result<(), StorehouseError> {
        self.change_cache(name, |record| {
            record.destroyed = Some(self.store.now());
            Ok(())
        })?;
        Ok(())
    }

    /// Undoes the destruction of a cache. All its paths count as used then: nobody could use them before.
    pub fn restore_cache(&self, name: &CacheName) -> Result<Arc<Cache>, StorehouseError> {
        self.change_record(name, |record| {
            if record.buried {
                return Err(StorehouseError::Buried(name.clone()));
            }
            if record.destroyed.take().is_some() {
                record.restored = self.store.now();
            }
            Ok(())
        })
    }

    /// Keeps a cache from being restored, because what is left of it is removed now. Says whether it still
    /// was destroyed, by that time.
    pub(crate) fn begin_burial(&self, name: &CacheName, due: u64) -> Result<bool, StorehouseError> {
        let begun = Cell::new(false);
        self.change_record(name, |record| {
            begun.set(record.destroyed.is_some_and(|when| when <= due));
            record.buried = begun.get();
            Ok(())
        })?;
        Ok(begun.get())
    }

    /// Nothing is left of a cache. It can be restored without paths.
    pub(crate) fn end_burial(&self, name: &CacheName) -> Result<(), StorehouseError> {
        self.change_record(name, |record| {
            record.buried = false;
            Ok(())
        })?;
        Ok(())
    }

    /// Changes the record of a cache that is not destroyed.
    pub(super) fn change_cache(
        &self,
        name: &CacheName,
        change: impl Fn(&mut CacheRecord) -> Result<(), StorehouseError>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        self.change_record(name, |record| match record.destroyed {
            Some(_) => Err(StorehouseError::NoSuchCache(name.clone())),
            None => change(record),
        })
    }

    fn change_record(
        &self,
        name: &CacheName,
        change: impl Fn(&mut CacheRecord) -> Result<(), StorehouseError>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        let before = self.read_caches().get(name).cloned();
        let before = before.ok_or_else(|| StorehouseError::NoSuchCache(name.clone()))?;
        let changed = self.commit_change(name, &before, change)?;
        Ok(put(&mut self.write_caches(), changed))
    }

    /// Changes the store directory of a cache that holds no paths. Nobody gets at the cache while
    /// that happens, and nobody has it: a path that is published now was checked against the old
    /// directory.
    fn move_cache(
        &self,
        name: &CacheName,
        change: impl Fn(&mut CacheRecord) -> Result<(), StorehouseError>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        for _ in 0..MOVE_ATTEMPTS {
            let mut caches = self.write_caches();
            let before = caches.get(name).filter(|cache| cache.destroyed().is_none());
            let before = before.ok_or_else(|| StorehouseError::NoSuchCache(name.clone()))?;
            if Arc::strong_count(before) == 1 {
                if !before.paths(None, 1)?.is_empty() {
                    return Err(StorehouseError::HasPaths(name.clone()));
                }
                let changed = self.commit_change(name, before, change)?;
                return Ok(put(&mut caches, changed));
            }
            drop(caches);
            std::thread::sleep(MOVE_PAUSE);
        }
        Err(StorehouseError::InUse(name.clone()))
    }

    /// Makes a change durable; what it changed is not to be seen yet.
    fn commit_change(
        &self,
        name: &CacheName,
        before: &Cache,
        change: impl Fn(&mut CacheRecord) -> Result<(), StorehouseError>,
    ) -> Result<Cache, StorehouseError> {
        loop {
            let key = cache_key(name.as_str());
            let fact = self.store.fact(&key)?;
            let fact = fact.ok_or_else(|| StorehouseError::NoSuchCache(name.clone()))?;
            let mut record: CacheRecord = decode(&format!("cache {name}"), &fact.value)?;
            change(&mut record)?;
            let cache = self.make(name, &record, Some(before))?;
            let value = record.encode_to_vec();
            if value == fact.value {
                return Ok(cache.since(fact.sequence));
            }
            let mut transaction = Transaction::default();
            transaction.put(key, value, Expected::as_read(Some(&fact)));
            transaction.touch(CACHES);
            match self.store.commit(transaction) {
                Ok(sequence) => return Ok(cache.since(sequence)),
                Err(CommitError::Conflict) => continue,
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }

    pub(super) fn make(
        &self,
        name: &CacheName,
        record: &CacheRecord,
        before: Option<&Cache>,
    ) -> Result<Cache, StorehouseError> {
        let keys = self.open_keys(name, record)?;
        Ok(Cache::new(
            self.store.clone(),
            self.accesses.accesses().clone(),
            self.broken().clone(),
            name.clone(),
            record,
            keys,
            before,
        )?)
    }

    fn live(&self, name: &CacheName) -> Result<Arc<Cache>, StorehouseError> {
        self.cache(name.as_str()).ok_or_else(|| StorehouseError::NoSuchCache(name.clone()))
    }
}

/// Lets everybody see a cache, unless a later change is seen already.
pub(super) fn put(caches: &mut Caches, cache: Cache) -> Arc<Cache> {
    let cache = Arc::new(cache);
    match caches.entry(cache.name().clone()) {
        Entry::Occupied(mut entry) => {
            if entry.get().is_older_than(&cache) {
                entry.insert(cache.clone());
            }
        }
        Entry::Vacant(entry) => {
            entry.insert(cache.clone());
        }
    }
    cache
}

fn number_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}
