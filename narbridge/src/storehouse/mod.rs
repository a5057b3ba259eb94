//! The storehouse: one castore, the server's key, and the caches over them.

mod error;
mod fresh;
mod keys;
mod tenants;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use castore::{Fact, Options, Place, Store, StoreError};

pub use error::StorehouseError;
pub(crate) use fresh::REVOCATIONS;

use crate::accesses::Keeper;
use crate::broken::Broken;
use crate::cache::{Cache, CacheName};
use crate::records::{self, CacheRecord, RecordError, decode};
use crate::revocations::Revocations;
use crate::secrets::ServerKey;

/// One store and the caches over it.
pub struct Storehouse {
    store: Arc<Store>,
    key: ServerKey,
    revocations: Arc<Revocations>,
    /// All of them, destroyed ones included.
    caches: RwLock<Caches>,
    fresh: fresh::Fresh,
    /// When paths were used; what was noted is written when this is dropped.
    accesses: Keeper,
    /// Trees that are not all there.
    broken: Arc<Broken>,
    /// Whether garbage is being collected.
    pub(crate) collecting: AtomicBool,
}

type Caches = HashMap<CacheName, Arc<Cache>>;

impl Storehouse {
    /// Opens the storehouse in `dir`, making it where there is none.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Self, StorehouseError> {
        Self::open_with_key(dir, &dir.join("server-key"), options)
    }

    /// The same with the server's key in a file elsewhere, made where there is none.
    pub fn open_with_key(
        dir: &Path,
        key: &Path,
        options: Options<'_>,
    ) -> Result<Self, StorehouseError> {
        let store = Store::open(dir, options)?;
        let key = ServerKey::load_or_make(key)?;
        let fresh = fresh::Fresh::default();
        let revocations = Arc::new(Revocations::open(store.clone())?);
        let accesses = Keeper::start(store.clone())?;
        let broken = Arc::new(Broken::open(store.clone())?);
        let caches = RwLock::default();
        let collecting = AtomicBool::new(false);
        let house = Self { store, key, revocations, caches, fresh, accesses, broken, collecting };
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
        self.store.reach(place)
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

    /// Writes which paths were used to the index, where it is written only every now and then. Blocks.
    pub fn flush_accesses(&self) -> Result<(), StoreError> {
        self.accesses.accesses().flush()
    }

    /// Before that, in seconds since 1970, it is not known which paths were used.
    pub fn used_since(&self) -> Result<u64, StoreError> {
        self.accesses.accesses().since()
    }

    pub(crate) fn broken(&self) -> &Arc<Broken> {
        &self.broken
    }

    /// Gives every fact below `prefix` to `each`, the prefix taken off its key.
    pub(crate) fn each_fact(
        &self,
        prefix: &[u8],
        each: impl FnMut(&[u8], Fact) -> Result<(), StorehouseError>,
    ) -> Result<(), StorehouseError> {
        self.store.each_fact(prefix, each)
    }

    fn read_caches(&self) -> RwLockReadGuard<'_, Caches> {
        self.caches.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_caches(&self) -> RwLockWriteGuard<'_, Caches> {
        self.caches.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all caches; those that are known as they are stay.
    fn load_caches(&self) -> Result<(), StorehouseError> {
        self.each_fact(records::CACHES, |name, fact| {
            self.load_cache(&String::from_utf8_lossy(name), &fact)
        })
    }

    fn load_cache(&self, name: &str, fact: &Fact) -> Result<(), StorehouseError> {
        let known = self.read_caches().get(name).cloned();
        if known.as_ref().is_some_and(|known| known.is_since(fact.sequence)) {
            return Ok(());
        }
        let record: CacheRecord = decode(&format!("cache {name}"), &fact.value)?;
        let name: CacheName =
            name.parse().map_err(|error| RecordError::new(format!("cache {name}"), error))?;
        let cache = self.make(&name, &record, known.as_deref())?.since(fact.sequence);
        tenants::put(&mut self.write_caches(), cache);
        Ok(())
    }
}
