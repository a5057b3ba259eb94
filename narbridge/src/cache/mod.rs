//! A cache: a tenant's own view of path infos, over storage that all share.

mod chunks;
mod copies;
mod deletion;
mod files;
mod keys;
mod listing;
mod name;
mod narinfo;
mod nars;
mod paths;
pub mod pins;
mod profiles;
mod publish;
mod push;
mod references;
mod removal;
mod rendered;
mod retention;
mod settings;
mod sync;
mod tag;
mod whole;

use std::sync::Arc;

use castore::{Digest, Store, StoreError};
use nix_compat::nixhash::Sha256;
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::{StoreDir, StorePathHash};

pub use chunks::ChunkRecords;
pub use copies::Copies;
pub use deletion::{Deleted, Deletion, DeletionError, DeletionPlan, DoomedPath, KeptPath, KeptWhy};
pub(crate) use files::About;
pub use files::{FileName, StoredFile};
pub use keys::CacheKey;
pub use listing::Listing;
pub use name::{CacheName, InvalidCacheName};
pub use nars::{NarFile, NarName, NarUploadError, UploadedNar};
pub use paths::{ListedPath, PathInfo};
pub use pins::{Pin, PinError, PinName, PinReport, PinRequest, PinRevision};
pub use profiles::{InvalidProfile, Profile};
pub use publish::PublishError;
pub use push::{PushError, PushOutcome, PushedPath, Pusher, Verified};
pub use references::References;
pub use rendered::SentNarinfo;
pub use settings::{CacheChanges, CacheSettings, SettingError, UpstreamKey};
pub use sync::{InvalidQuestion, Synced};
pub use tag::Tag;
pub use whole::{PublishNarError, PublishedNar};

use crate::accesses::Accesses;
use crate::broken::Broken;
use crate::nar::{NarError, ZstdPlan};
use crate::records::{CacheRecord, PathRecord, RecordError};

use keys::Signers;
use rendered::RenderedNarinfos;

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

type Plans = quick_cache::sync::Cache<Digest, Arc<ZstdPlan>, PlanWeight>;

/// A tenant, as it was when its record was read: a change of settings makes another one, which takes
/// over what is in memory.
pub struct Cache {
    store: Arc<Store>,
    name: CacheName,
    number: u32,
    /// Sequence number of the record.
    since: u64,
    keys: Vec<CacheKey>,
    public: bool,
    store_dir: StoreDir,
    priority: u32,
    upstream_keys: Vec<UpstreamKey>,
    retention: Option<u64>,
    max_age: Option<u64>,
    max_size: Option<u64>,
    created: u64,
    destroyed: Option<u64>,
    restored: u64,
    buried: bool,
    /// Rendered narinfos, and what is known not to be there.
    narinfos: Arc<RenderedNarinfos>,
    /// How NARs that were served lately are put together.
    plans: Arc<Plans>,
    /// When its paths were used.
    accesses: Arc<Accesses>,
    /// Trees that are not all there.
    broken: Arc<Broken>,
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
        accesses: Arc<Accesses>,
        broken: Arc<Broken>,
        name: CacheName,
        record: &CacheRecord,
        keys: Vec<CacheKey>,
        before: Option<&Cache>,
    ) -> Result<Self, RecordError> {
        let settings = CacheSettings::of_record(&format!("cache {name}"), record)?;
        let narinfos = before.map(|before| before.narinfos.clone());
        let narinfos = narinfos.unwrap_or_else(|| Arc::new(RenderedNarinfos::new(&store)));
        let plans = before.map(|before| before.plans.clone());
        Ok(Self {
            store,
            name,
            number: record.number,
            since: 0,
            keys,
            public: settings.public,
            store_dir: settings.store_dir,
            priority: settings.priority,
            upstream_keys: settings.upstream_keys,
            retention: settings.retention,
            max_age: settings.max_age,
            max_size: settings.max_size,
            created: record.created,
            destroyed: record.destroyed,
            restored: record.restored,
            buried: record.buried,
            narinfos,
            plans: plans
                .unwrap_or_else(|| Arc::new(Plans::with_weighter(1000, PLAN_CACHE, PlanWeight))),
            accesses,
            broken,
        })
    }

    /// The same, with the sequence number of the record it was made from.
    pub(crate) fn since(self, since: u64) -> Self {
        Self { since, ..self }
    }

    /// Whether this one was made from an earlier record of the cache than `other`.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        self.since < other.since
    }

    /// Whether it was made from the record of that sequence number.
    pub(crate) fn is_since(&self, sequence: u64) -> bool {
        self.since == sequence
    }

    /// Its number, under which its records are kept.
    pub(crate) fn number(&self) -> u32 {
        self.number
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

    /// Whether reading needs no token.
    pub fn is_public(&self) -> bool {
        self.public
    }

    /// Whose paths are not pushed to it.
    pub fn upstream_keys(&self) -> &[UpstreamKey] {
        &self.upstream_keys
    }

    /// Seconds for which a path is kept after its last use; `None` for the server's default.
    pub fn retention(&self) -> Option<u64> {
        self.retention
    }

    /// Seconds for which a path is kept after its upload; `None` for the server's default.
    pub fn max_age(&self) -> Option<u64> {
        self.max_age
    }

    /// What its paths may take together, in bytes of their NARs as zstd; `None` for the server's
    /// default.
    pub fn max_size(&self) -> Option<u64> {
        self.max_size
    }

    /// When it was made, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// When it was destroyed, in seconds since 1970.
    pub fn destroyed(&self) -> Option<u64> {
        self.destroyed
    }

    /// Whether garbage collection has begun to remove what is left of it, and not come to the end.
    pub(crate) fn is_being_buried(&self) -> bool {
        self.buried
    }

    /// Its key pairs, newest first; also those that do not sign any more.
    pub fn keys(&self) -> &[CacheKey] {
        &self.keys
    }

    /// The keys its signatures verify with, newest first.
    pub fn public_keys(&self) -> impl Iterator<Item = VerifyingKey> {
        Signers::at(self.store.now(), &self.keys)
            .keys()
            .map(|key| key.verifying_key())
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// What `nix-cache-info` says.
    pub fn info(&self) -> String {
        format!("StoreDir: {}\nWantMassQuery: 1\nPriority: {}\n", self.store_dir, self.priority)
    }

    pub(crate) fn path_record(
        &self,
        hash: StorePathHash,
    ) -> Result<Option<(u64, PathRecord)>, CacheError> {
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
