//! A cache of the Granary in a directory of this machine, without a server.

use std::sync::Arc;

use bytes::Bytes;
use castore::Digest;
use granary_api::sync::{SyncPaths, SyncedPath};
use narbridge::{Cache, Storehouse};
use nix_compat::store_path::StorePath;

use super::SourceError;

/// Paths that are listed at once.
const PAGE: usize = 4096;

/// A cache of this machine.
#[derive(Clone)]
pub struct Local {
    cache: Arc<Cache>,
    name: String,
    /// Keeps the directory locked.
    _house: Arc<Storehouse>,
}

impl Local {
    /// The cache; `name` is what a person calls it.
    pub fn new(house: Arc<Storehouse>, cache: Arc<Cache>, name: String) -> Self {
        Self { cache, name, _house: house }
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Cache>) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let cache = self.cache.clone();
        let done = tokio::task::spawn_blocking(move || work(&cache)).await;
        done.map_err(|error| SourceError::of(&error))?
    }

    pub(super) async fn sync(&self, question: SyncPaths) -> Result<Vec<SyncedPath>, SourceError> {
        self.blocking(move |cache| {
            let paths = cache.sync(&question).map_err(|error| SourceError::of(&error))?;
            paths.map(|path| path.map_err(|error| SourceError::of(&error))).collect()
        })
        .await
    }

    pub(super) async fn read_chunks(&self, digests: Vec<Digest>) -> Result<Bytes, SourceError> {
        self.blocking(move |cache| {
            let records = cache.chunk_records(&digests);
            records.and_then(|records| records.read_all()).map_err(|error| SourceError::of(&error))
        })
        .await
    }

    pub(super) async fn paths(&self, limit: usize) -> Result<Option<Vec<StorePath>>, SourceError> {
        self.blocking(move |cache| {
            let mut paths: Vec<StorePath> = Vec::new();
            loop {
                let after = paths.last().map(StorePath::hash);
                let page = cache.paths(after, PAGE).map_err(|error| SourceError::of(&error))?;
                let done = page.len() < PAGE;
                paths.extend(page);
                if paths.len() > limit {
                    return Ok(None);
                }
                if done {
                    paths.sort_unstable();
                    return Ok(Some(paths));
                }
            }
        })
        .await
    }
}
