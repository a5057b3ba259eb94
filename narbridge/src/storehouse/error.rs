//! Why a storehouse did not open, or a cache was not made or changed.

use castore::StoreError;

use crate::cache::{CacheError, CacheName, SettingError};
use crate::records::RecordError;
use crate::revocations::RevocationError;
use crate::secrets::SecretError;

/// Why a storehouse did not open, or a cache was not made or changed.
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
    /// It is not known which tokens are void.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// A cache could not be looked into.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// No cache has that name.
    #[error("there is no cache called {0}")]
    NoSuchCache(CacheName),
    /// A cache of that name exists.
    #[error("there is a cache called {0} already")]
    Exists(CacheName),
    /// A cache of that name existed.
    #[error(
        "a cache called {0} was destroyed, and its name stays taken: bring it back with \
         `granary cache restore {0}`, or choose another name"
    )]
    Destroyed(CacheName),
    /// Garbage collection has begun to remove its paths.
    #[error(
        "the paths of cache {0} are being removed: restore it without them when garbage collection is \
         over (granary gc sees to that)"
    )]
    Buried(CacheName),
    /// What was to be done takes long, and was told to stop.
    #[error("it was told to stop")]
    Stopped,
    /// Paths are bound to their store directory.
    #[error(
        "store_dir: {0} holds paths, which cannot be moved to another store directory: make \
         another cache"
    )]
    HasPaths(CacheName),
    /// Somebody may be publishing a path.
    #[error("store_dir: {0} is in use at this moment; try again")]
    InUse(CacheName),
    /// A cache's keys are told apart by their names.
    #[error("cache {cache} has a key called {key} already: give the new one another name")]
    KeyExists {
        /// The cache.
        cache: CacheName,
        /// The key.
        key: String,
    },
    /// No key of the cache has that name.
    #[error("cache {cache} has no key called {key}")]
    NoSuchKey {
        /// The cache.
        cache: CacheName,
        /// The key.
        key: String,
    },
    /// Without it, what is published later would not be signed.
    #[error("{key} is the last key that signs for cache {cache}: add another one first")]
    LastKey {
        /// The cache.
        cache: CacheName,
        /// The key.
        key: String,
    },
    /// It has as many keys as a cache can have.
    #[error("cache {0} has as many keys as a cache can have: remove one that is not used any more")]
    TooManyKeys(CacheName),
}
