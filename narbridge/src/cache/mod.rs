//! A cache: a tenant's own view of path infos, over storage that all share.

mod files;
mod name;
mod narinfo;
mod nars;
mod paths;
mod publish;
mod push;

use std::sync::Arc;

use bytes::Bytes;
use castore::{Digest, Store, StoreError};
use nix_compat::nixhash::Sha256;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::{StoreDir, StorePathHash};

pub use files::{FileName, StoredFile};
pub use name::{CacheName, InvalidCacheName};
pub use nars::{NarFile, NarName, NarUploadError, UploadedNar};
pub use publish::PublishError;
pub use push::{PushError, PushOutcome, Pusher};

use crate::nar::{NarError, ZstdPlan};
use crate::records::{CacheRecord, PathRecord, RecordError};

/// Narinfos held in memory as they are sent, in bytes. Room for some 20 000.
const NARINFO_CACHE: u64 = 16 * 1024 * 1024;

/// Plans of NARs held in memory, in bytes: about 15 GB of NARs.
const PLAN_CACHE: u64 = 32 * 1024 * 1024;

/// Why a cache could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The castore failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A NAR could not be made.
    #[error(transparent)]
    Nar(#[from] NarError),
}

/// A tenant.
pub struct Cache {
    store: Arc<Store>,
    name: CacheName,
    number: u32,
    keys: Vec<SigningKey>,
    store_dir: StoreDir,
    priority: u32,
    /// Rendered narinfos, and what is known not to be there.
    narinfos: quick_cache::sync::Cache<StorePathHash, Option<Bytes>, NarinfoWeight>,
    /// How NARs that were served lately are put together.
    plans: quick_cache::sync::Cache<Digest, Arc<ZstdPlan>, PlanWeight>,
}

#[derive(Clone)]
struct NarinfoWeight;

impl quick_cache::Weighter<StorePathHash, Option<Bytes>> for NarinfoWeight {
    fn weight(&self, _: &StorePathHash, narinfo: &Option<Bytes>) -> u64 {
        100 + narinfo.as_ref().map_or(0, |narinfo| narinfo.len() as u64)
    }
}

#[derive(Clone)]
struct PlanWeight;

impl quick_cache::Weighter<Digest, Arc<ZstdPlan>> for PlanWeight {
    fn weight(&self, _: &Digest, plan: &Arc<ZstdPlan>) -> u64 {
        plan.weight()
    }
}

impl Cache {
    pub(crate) fn new(
        store: Arc<Store>,
        name: CacheName,
        record: &CacheRecord,
        keys: Vec<SigningKey>,
    ) -> Result<Self, String> {
        let store_dir = match record.store_dir.as_str() {
            "" => StoreDir::default(),
            dir => dir.parse().map_err(|error| format!("store directory {dir}: {error}"))?,
        };
        let narinfos =
            quick_cache::sync::Cache::with_weighter(20_000, NARINFO_CACHE, NarinfoWeight);
        let (number, priority) = (record.number, record.priority);
        let plans = quick_cache::sync::Cache::with_weighter(1000, PLAN_CACHE, PlanWeight);
        Ok(Self { store, name, number, keys, store_dir, priority, narinfos, plans })
    }

    /// Its name.
    pub fn name(&self) -> &CacheName {
        &self.name
    }

    /// Where its paths live.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Its priority among substituters.
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// The keys its signatures verify with, newest first.
    pub fn public_keys(&self) -> impl Iterator<Item = VerifyingKey> {
        self.keys.iter().map(SigningKey::verifying_key)
    }

    /// What `nix-cache-info` says.
    pub fn info(&self) -> String {
        format!("StoreDir: {}\nWantMassQuery: 1\nPriority: {}\n", self.store_dir, self.priority)
    }

    fn path_record(&self, hash: StorePathHash) -> Result<Option<(u64, PathRecord)>, CacheError> {
        let fact = self.store.fact(&crate::records::path_key(self.number, hash))?;
        let Some(fact) = fact else { return Ok(None) };
        let record = crate::records::decode(&format!("path {hash}"), &fact.value)?;
        Ok(Some((fact.sequence, record)))
    }
}

/// The URL under which every path's NAR is to be had.
fn nar_url(nar_hash: Sha256) -> String {
    format!("nar/{}.nar.zst", nar_hash.to_nix32())
}
