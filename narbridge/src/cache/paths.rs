//! Looking at the paths of a cache.

use std::sync::Arc;

use castore::tree::Tree;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::{Cache, CacheError};
use crate::records::{PathRecord, RecordError, decode, digest, path_key, path_prefix};

impl Cache {
    /// Up to `limit` paths whose hash part sorts after `after`, in the order of their hashes.
    pub fn paths(
        &self,
        after: Option<StorePathHash>,
        limit: usize,
    ) -> Result<Vec<StorePath>, CacheError> {
        let prefix = path_prefix(self.number);
        let after = after.map(|hash| path_key(self.number, hash));
        let mut paths = Vec::new();
        for (key, fact) in self.store.scan_facts(&prefix, after.as_deref(), limit)? {
            let hash: Result<[u8; 20], _> = key[prefix.len()..].try_into();
            let hash = hash.map_err(|_| RecordError::new("a path", "its key is not a hash"))?;
            let record: PathRecord = decode("a path", &fact.value)?;
            let path = StorePath::new(StorePathHash::from(hash), &record.name);
            paths.push(path.map_err(|error| RecordError::new(&record.name, error))?);
        }
        Ok(paths)
    }

    /// The tree of a path; `None` when the cache does not have the path.
    pub fn tree(&self, hash: StorePathHash) -> Result<Option<Arc<Tree>>, CacheError> {
        let Some((_, record)) = self.path_record(hash)? else {
            return Ok(None);
        };
        Ok(Some(self.store.tree(&digest(&record.name, &record.tree)?)?))
    }
}
