//! The storehouse: one castore, the server's key, and the caches over them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use castore::{Expected, Options, Store, StoreError, Transaction};
use nix_compat::signature::SigningKey;
use prost::Message;

use crate::cache::{Cache, CacheName};
use crate::records::{CacheRecord, RecordError, cache_key, decode};
use crate::secrets::{SecretError, ServerKey, random};

/// Why a storehouse did not open, or a cache was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorehouseError {
    /// The castore failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server's key, or what it sealed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A signing key cannot be used.
    #[error("the signing key of cache {cache}: {why}")]
    Key {
        /// Which cache.
        cache: String,
        /// Why not.
        why: String,
    },
    /// A cache of that name exists.
    #[error("there is a cache called {0} already")]
    Exists(CacheName),
}

/// One store and the caches over it.
pub struct Storehouse {
    store: Arc<Store>,
    key: ServerKey,
    caches: RwLock<HashMap<CacheName, Arc<Cache>>>,
}

impl Storehouse {
    /// Opens the storehouse in `dir`, making it where there is none.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Self, StorehouseError> {
        let store = Store::open(dir, options)?;
        let key = ServerKey::load_or_make(&dir.join("server-key"))?;
        let house = Self { store, key, caches: RwLock::default() };
        house.load_caches()?;
        Ok(house)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The server's key.
    pub fn key(&self) -> &ServerKey {
        &self.key
    }

    /// The cache of that name.
    pub fn cache(&self, name: &str) -> Option<Arc<Cache>> {
        self.caches.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn load_caches(&self) -> Result<(), StorehouseError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan_facts(b"cache/", after.as_deref(), 100)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, fact) in page {
                let name = String::from_utf8_lossy(&key[b"cache/".len()..]).into_owned();
                let record: CacheRecord = decode(&format!("cache {name}"), &fact.value)?;
                let name: CacheName = name
                    .parse()
                    .map_err(|error| RecordError::new(format!("cache {name}"), error))?;
                self.add(name, &record)?;
            }
        }
    }

    fn add(&self, name: CacheName, record: &CacheRecord) -> Result<Arc<Cache>, StorehouseError> {
        let failed = |why: String| StorehouseError::Key { cache: name.to_string(), why };
        let mut keys = Vec::new();
        for sealed in &record.sealed_keys {
            let text = self.key.open(&cache_key(name.as_str()), sealed)?;
            let text = String::from_utf8(text).map_err(|error| failed(error.to_string()))?;
            keys.push(text.parse::<SigningKey>().map_err(|error| failed(error.to_string()))?);
        }
        let cache = Cache::new(self.store.clone(), name.clone(), record, keys);
        let cache = Arc::new(cache.map_err(failed)?);
        let mut caches = self.caches.write().unwrap_or_else(PoisonError::into_inner);
        caches.insert(name, cache.clone());
        Ok(cache)
    }

    /// Makes a cache with a key pair called `key_name`.
    pub fn create_cache(
        &self,
        name: CacheName,
        key_name: &str,
    ) -> Result<Arc<Cache>, StorehouseError> {
        let failed = |why: String| StorehouseError::Key { cache: name.to_string(), why };
        let key =
            SigningKey::generate(key_name, random()?).map_err(|error| failed(error.to_string()))?;
        let fact_key = cache_key(name.as_str());
        let sealed = self.key.seal(&fact_key, key.to_secret_string().as_bytes())?;
        // The number is read and raised in the same transaction, so that no two caches share it.
        let last = self.store.fact(b"caches")?;
        let number = last.as_ref().map_or(0, |fact| number_of(&fact.value)) + 1;
        let record = CacheRecord {
            number,
            sealed_keys: vec![sealed],
            store_dir: String::new(),
            priority: 40,
            private: false,
            created: now(),
        };
        let mut transaction = Transaction::default();
        transaction.put(
            b"caches".to_vec(),
            number.to_be_bytes().to_vec(),
            Expected::as_read(last.as_ref()),
        );
        transaction.put(fact_key, record.encode_to_vec(), Expected::Absent);
        match self.store.commit(transaction) {
            Ok(_) => self.add(name, &record),
            Err(castore::CommitError::Conflict) => Err(StorehouseError::Exists(name)),
            Err(error) => Err(StoreError::from(error).into()),
        }
    }
}

fn number_of(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
