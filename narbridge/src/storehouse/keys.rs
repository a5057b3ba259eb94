//! The key pairs of caches: made or taken in, sealed with the server's key, and retired.

use std::sync::Arc;

use nix_compat::signature::{SigningKey, VerifyingKey};

use super::{Storehouse, StorehouseError};
use crate::cache::{Cache, CacheKey, CacheName, SettingError};
use crate::records::{CacheRecord, KeyRecord, RecordError, cache_key};
use crate::secrets::random;

/// Every key that signs makes every narinfo longer, and takes time when one is first read.
const MAX_KEYS: usize = 16;

impl Storehouse {
    /// Adds a key pair to a cache: this one, or a new one. With `retire_others_after`, the others
    /// sign for so many seconds more.
    pub fn add_key(
        &self,
        name: &CacheName,
        key: Option<SigningKey>,
        retire_others_after: Option<u64>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        let added = self.seal_key(name, key)?;
        self.change_cache(name, |record| {
            if record.keys.iter().any(|key| key.name() == added.name()) {
                let key = added.name().to_owned();
                return Err(StorehouseError::KeyExists { cache: name.clone(), key });
            }
            if record.keys.len() >= MAX_KEYS {
                return Err(StorehouseError::TooManyKeys(name.clone()));
            }
            if let Some(after) = retire_others_after {
                let until = self.store.now().saturating_add(after);
                record.keys.iter_mut().for_each(|key| retire(key, until));
            }
            record.keys.insert(0, added.clone());
            Ok(())
        })
    }

    /// Puts a key pair, this one or a new one, in the place of all that a cache has. They do not
    /// sign any more.
    pub fn replace_keys(
        &self,
        name: &CacheName,
        key: Option<SigningKey>,
    ) -> Result<Arc<Cache>, StorehouseError> {
        let key = self.seal_key(name, key)?;
        self.change_cache(name, |record| {
            record.keys = vec![key.clone()];
            Ok(())
        })
    }

    /// Lets a key sign for so many seconds more; with 0 it is removed.
    pub fn retire_key(
        &self,
        name: &CacheName,
        key: &str,
        after: u64,
    ) -> Result<Arc<Cache>, StorehouseError> {
        self.change_cache(name, |record| {
            let found = record.keys.iter().position(|record| record.name() == key);
            let Some(index) = found else {
                let (cache, key) = (name.clone(), key.to_owned());
                return Err(StorehouseError::NoSuchKey { cache, key });
            };
            match after {
                0 => drop(record.keys.remove(index)),
                after => {
                    let until = self.store.now().saturating_add(after);
                    retire(&mut record.keys[index], until);
                }
            }
            if record.keys.iter().all(|key| key.sign_until.is_some()) {
                let (cache, key) = (name.clone(), key.to_owned());
                return Err(StorehouseError::LastKey { cache, key });
            }
            Ok(())
        })
    }

    /// Seals a key pair, made anew if need be. A new one's name starts with that of the cache.
    pub(super) fn seal_key(
        &self,
        name: &CacheName,
        key: Option<SigningKey>,
    ) -> Result<KeyRecord, StorehouseError> {
        let key = match key {
            Some(key) => key,
            None => {
                // Key names are what clients tell keys apart by, so two servers must not share one.
                let suffix = u32::from_be_bytes(random()?);
                SigningKey::generate(&format!("{name}-{suffix:08x}"), random()?)
                    .map_err(|error| SettingError::new("signing_key", error))?
            }
        };
        let secret = key.to_secret_string();
        let sealed = self.key.seal(&cache_key(name.as_str()), secret.as_bytes())?;
        Ok(KeyRecord { public_key: key.verifying_key().to_string(), sealed, sign_until: None })
    }

    pub(super) fn open_keys(
        &self,
        name: &CacheName,
        record: &CacheRecord,
    ) -> Result<Vec<CacheKey>, StorehouseError> {
        let context = cache_key(name.as_str());
        let open = |record: &KeyRecord| {
            let damaged =
                |why: &str| RecordError::new(format!("{name}'s key {}", record.name()), why);
            let text = self.key.open(&context, &record.sealed)?;
            let text = String::from_utf8(text).map_err(|_| damaged("it is not text"))?;
            let secret: SigningKey = text.parse().map_err(|_| damaged("it is not a secret key"))?;
            let public: Result<VerifyingKey, _> = record.public_key.parse();
            if public.as_ref() != Ok(&secret.verifying_key()) {
                return Err(damaged("the public key is another").into());
            }
            Ok(CacheKey::new(secret, record.sign_until))
        };
        record.keys.iter().map(open).collect()
    }
}

/// Lets a key sign until then, or less long, if it was retired before.
fn retire(key: &mut KeyRecord, until: u64) {
    key.sign_until = Some(key.sign_until.map_or(until, |before| before.min(until)));
}
