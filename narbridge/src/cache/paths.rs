//! Looking at the paths of a cache.

use std::sync::Arc;

use castore::tree::Tree;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::{Cache, CacheError};
use crate::records::{PathRecord, RecordError, decode, digest, path_key, path_prefix, sha256};

/// Facts that are fetched at once.
const PAGE: usize = 1000;

/// What a cache says of a path, in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPath {
    /// The path.
    pub path: StorePath,
    /// Length of the NAR.
    pub nar_size: u64,
    /// Length of the NAR as zstd when it was uploaded.
    pub file_size: u64,
    /// When that was, in seconds since 1970.
    pub uploaded: u64,
}

/// What a cache says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of the NAR.
    pub nar_hash: Sha256,
    /// Length of the NAR.
    pub nar_size: u64,
    /// Length of the NAR as zstd when it was uploaded.
    pub file_size: u64,
    /// Base names of the paths it refers to, sorted.
    pub references: Vec<String>,
    /// Base name of the derivation, if it is known.
    pub deriver: Option<String>,
    /// How many signatures came with it.
    pub signatures: usize,
    /// Content address, if it has one.
    pub ca: Option<String>,
    /// When it was uploaded, in seconds since 1970.
    pub uploaded: u64,
    /// Subject of the token that pushed it, if it is known.
    pub uploader: Option<String>,
}

impl Cache {
    /// Up to `limit` paths whose hash part sorts after `after`, in the order of their hashes.
    pub fn paths(
        &self,
        after: Option<StorePathHash>,
        limit: usize,
    ) -> Result<Vec<StorePath>, CacheError> {
        let listed = self.listed_paths(after, limit)?;
        Ok(listed.into_iter().map(|listed| listed.path).collect())
    }

    /// The same with what is said of each in a line.
    pub fn listed_paths(
        &self,
        after: Option<StorePathHash>,
        limit: usize,
    ) -> Result<Vec<ListedPath>, CacheError> {
        let page = self.path_records(after, limit)?;
        let listed = page.into_iter().map(|(hash, _, record)| {
            let path = store_path(hash, &record)?;
            let PathRecord { nar_size, file_size, uploaded, .. } = record;
            Ok(ListedPath { path, nar_size, file_size, uploaded })
        });
        listed.collect()
    }

    /// What the cache says of a path; `None` when it does not have the path.
    pub fn path_info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, CacheError> {
        let Some((_, record)) = self.path_record(hash)? else { return Ok(None) };
        let path = store_path(hash, &record)?;
        let nar_hash = sha256(&record.name, &record.nar_hash)?;
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Some(PathInfo {
            path,
            nar_hash,
            nar_size: record.nar_size,
            file_size: record.file_size,
            references: record.references,
            deriver: known(record.deriver),
            signatures: record.signatures.len(),
            ca: known(record.ca),
            uploaded: record.uploaded,
            uploader: known(record.uploader),
        }))
    }

    /// The tree of a path; `None` when the cache does not have the path.
    pub fn tree(&self, hash: StorePathHash) -> Result<Option<Arc<Tree>>, CacheError> {
        let Some((_, record)) = self.path_record(hash)? else {
            return Ok(None);
        };
        Ok(Some(self.store.tree(&digest(&record.name, &record.tree)?)?))
    }

    /// Gives every path to `each`: its hash part, the sequence number of its fact, and its record.
    pub(crate) fn each_path(
        &self,
        mut each: impl FnMut(StorePathHash, u64, PathRecord) -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        let mut after = None;
        loop {
            let page = self.path_records(after, PAGE)?;
            let Some((last, ..)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, sequence, record) in page {
                each(hash, sequence, record)?;
            }
        }
    }

    fn path_records(
        &self,
        after: Option<StorePathHash>,
        limit: usize,
    ) -> Result<Vec<(StorePathHash, u64, PathRecord)>, CacheError> {
        let prefix = path_prefix(self.number);
        let after = after.map(|hash| path_key(self.number, hash));
        let page = self.store.scan_facts(&prefix, after.as_deref(), limit)?;
        let records = page.into_iter().map(|(key, fact)| {
            let hash: Result<[u8; 20], _> = key[prefix.len()..].try_into();
            let hash = hash.map_err(|_| RecordError::new("a path", "its key is not a hash"))?;
            Ok((StorePathHash::from(hash), fact.sequence, decode("a path", &fact.value)?))
        });
        records.collect()
    }
}

/// The path that a record is about.
pub(super) fn store_path(
    hash: StorePathHash,
    record: &PathRecord,
) -> Result<StorePath, RecordError> {
    StorePath::new(hash, &record.name).map_err(|error| RecordError::new(&record.name, error))
}
