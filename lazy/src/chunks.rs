//! Chunks for readers, from wherever they come: one by one, or with the whole path.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use castore::Digest;
use castore::tree::ChunkRef;
use futures_util::future::try_join_all;
use nix_compat::store_path::StorePathHash;

use crate::fetch::{Fetcher, Getting};
use crate::flight::Flights;
use crate::paths::Paths;
use crate::view::{LazyPath, ViewError};

/// When a NAR is read again, this much behind what is wanted is held on to, in plain bytes.
const BEHIND: usize = 8 * 1024 * 1024;

/// Gets chunks.
#[derive(Clone)]
pub(crate) struct Chunks {
    fetcher: Arc<Fetcher>,
    paths: Arc<Paths>,
    again: Arc<Flights<StorePathHash, Result<Arc<Seen>, ViewError>>>,
}

/// What a NAR that was read again had of what was wanted.
struct Seen {
    wanted: HashSet<Digest>,
    found: HashMap<Digest, Bytes>,
}

impl Chunks {
    pub fn new(fetcher: Arc<Fetcher>, paths: Arc<Paths>) -> Self {
        Self { fetcher, paths, again: Flights::new() }
    }

    /// Begins to get chunks one by one; what is on disk is read by a thread that may wait.
    pub async fn begin(&self, wanted: &[ChunkRef]) -> Vec<Getting> {
        let begin = |fetcher: &Fetcher, wanted: &[ChunkRef]| {
            wanted.iter().map(|chunk| fetcher.begin(chunk.digest, chunk.size)).collect()
        };
        if !wanted.iter().any(|chunk| self.fetcher.is_on_disk(&chunk.digest)) {
            return begin(&self.fetcher, wanted);
        }
        let (fetcher, these) = (self.fetcher.clone(), wanted.to_vec());
        let begun = tokio::task::spawn_blocking(move || begin(&fetcher, &these)).await;
        begun.unwrap_or_else(|_| begin(&self.fetcher, wanted))
    }

    /// The chunks that are being got.
    pub async fn finish(&self, getting: Vec<Getting>) -> Result<Vec<Bytes>, ViewError> {
        self.fetcher.ask();
        try_join_all(getting.into_iter().map(|one| self.fetcher.finish(one))).await
    }

    /// Chunks of a path in order, one by one or with the whole of it.
    pub async fn get(&self, path: &LazyPath, wanted: &[ChunkRef]) -> Result<Vec<Bytes>, ViewError> {
        if path.is_whole() {
            return self.with_whole(path, wanted).await;
        }
        let getting = self.begin(wanted).await;
        self.finish(getting).await
    }

    /// Chunks of a path that came as a NAR. They are on disk; those that have been thrown out, or
    /// were damaged there, come with the NAR once more, which is fetched once for all who wait.
    async fn with_whole(
        &self,
        path: &LazyPath,
        wanted: &[ChunkRef],
    ) -> Result<Vec<Bytes>, ViewError> {
        let mut found: HashMap<Digest, Bytes> = self.here(wanted).await;
        loop {
            let missing: HashSet<Digest> = wanted.iter().map(|chunk| chunk.digest).collect();
            let missing: HashSet<Digest> =
                missing.into_iter().filter(|digest| !found.contains_key(digest)).collect();
            if missing.is_empty() {
                let plain = wanted.iter().filter_map(|chunk| found.get(&chunk.digest).cloned());
                return Ok(plain.collect());
            }
            let (hash, chunks, mine) = (path.info.store_path.hash(), self.clone(), missing.clone());
            let read = move || async move { chunks.read_again(hash, mine).await };
            let seen = self.again.join(hash, read).await;
            let seen = seen.unwrap_or_else(|| Err(self.fetcher.failed("the mount is ending")))?;
            for digest in &missing {
                found.extend(seen.found.get(digest).map(|plain| (*digest, plain.clone())));
            }
            if seen.wanted.is_superset(&missing)
                && missing.iter().any(|digest| !found.contains_key(digest))
            {
                let name = &path.info.store_path;
                return Err(self.fetcher.failed(&format!("the NAR of {name} has changed")));
            }
            // Others were quicker, and had other wishes; their NAR has left ours on disk, if it can.
            found.extend(self.here(wanted).await);
        }
    }

    async fn here(&self, wanted: &[ChunkRef]) -> HashMap<Digest, Bytes> {
        let (fetcher, these) = (self.fetcher.clone(), wanted.to_vec());
        let here = move || {
            let here = these.iter().map(|chunk| (chunk.digest, fetcher.here(&chunk.digest)));
            here.filter_map(|(digest, plain)| Some((digest, plain?))).collect()
        };
        tokio::task::spawn_blocking(here).await.unwrap_or_default()
    }

    async fn read_again(
        &self,
        hash: StorePathHash,
        wanted: HashSet<Digest>,
    ) -> Result<Arc<Seen>, ViewError> {
        let (found, fetcher) = (Arc::new(Mutex::new(HashMap::new())), self.fetcher.clone());
        let (these, those) = (wanted.clone(), found.clone());
        let room = Mutex::new(BEHIND);
        let see = move |digest: &Digest, plain: &[u8]| {
            let mut those = those.lock().unwrap_or_else(PoisonError::into_inner);
            let mut room = room.lock().unwrap_or_else(PoisonError::into_inner);
            if these.contains(digest) {
                those.insert(*digest, Bytes::copy_from_slice(plain));
            } else if !those.is_empty()
                && let Some(left) = room.checked_sub(plain.len())
            {
                *room = left;
                fetcher.remember(*digest, Bytes::copy_from_slice(plain));
            }
        };
        self.paths.see_again(hash, Arc::new(see)).await?;
        let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Arc::new(Seen { wanted, found }))
    }
}
