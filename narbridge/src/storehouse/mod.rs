//! The storehouse: one castore, the server's key, and the caches over them.

mod error;
mod keys;
mod tenants;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use castore::{Options, Place, Store, StoreError};

pub use error::StorehouseError;

use crate::cache::{Cache, CacheName};
use crate::records::{CACHES, CacheRecord, RecordError, decode};
use crate::revocations::Revocations;
use crate::secrets::ServerKey;

/// One store and the caches over it.
pub struct Storehouse {
    store: Arc<Store>,
    key: ServerKey,
    revocations: Arc<Revocations>,
    /// All of them, destroyed ones included.
    caches: RwLock<Caches>,
}

type Caches = HashMap<CacheName, Arc<Cache>>;

impl Storehouse {
    /// Opens the storehouse in `dir`, making it where there is none.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Self, StorehouseError> {
        let store = Store::open(dir, options)?;
        let key = ServerKey::load_or_make(&dir.join("server-key"))?;
        let revocations = Arc::new(Revocations::open(store.clone())?);
        let house = Self { store, key, revocations, caches: RwLock::default() };
        house.load_caches()?;
        Ok(house)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Asks one of the places that everything rests on whether it answers. Blocks, for seconds when
    /// it does not.
    pub fn check(&self, place: Place) -> Result<(), StoreError> {
        self.store.check(place)
    }

    /// The server's key.
    pub fn key(&self) -> &ServerKey {
        &self.key
    }

    /// The tokens that are void.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The cache of that name, unless it was destroyed.
    pub fn cache(&self, name: &str) -> Option<Arc<Cache>> {
        self.read_caches().get(name).filter(|cache| cache.destroyed().is_none()).cloned()
    }

    /// All caches by name, destroyed ones included.
    pub fn caches(&self) -> Vec<Arc<Cache>> {
        let mut caches: Vec<Arc<Cache>> = self.read_caches().values().cloned().collect();
        caches.sort_by(|a, b| a.name().cmp(b.name()));
        caches
    }

    fn read_caches(&self) -> RwLockReadGuard<'_, Caches> {
        self.caches.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_caches(&self) -> RwLockWriteGuard<'_, Caches> {
        self.caches.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_caches(&self) -> Result<(), StorehouseError> {
        let mut caches = self.write_caches();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan_facts(CACHES, after.as_deref(), 100)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, fact) in page {
                let name = String::from_utf8_lossy(&key[CACHES.len()..]).into_owned();
                let record: CacheRecord = decode(&format!("cache {name}"), &fact.value)?;
                let name: CacheName = name
                    .parse()
                    .map_err(|error| RecordError::new(format!("cache {name}"), error))?;
                let cache = self.make(&name, &record, None)?.since(fact.sequence);
                caches.insert(name, Arc::new(cache));
            }
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
