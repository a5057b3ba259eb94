//! Where a lazy store's paths come from.

mod local;
mod nars;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use granary_api::sync::{PathProfile, SyncPaths, SyncedPath};
use granary_client::http::RemoteCache;
use granary_client::migrate::{self, Secret, Trust};
use nix_compat::store_path::{StorePath, StorePathHash};

use crate::disk::DiskCache;

pub use local::Local;
pub use nars::Nars;
pub(crate) use nars::Whole;
#[cfg(test)]
pub(crate) use nars::unpack;

/// Why a source did not answer. It was asked as often as made sense.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub(crate) String);

impl SourceError {
    pub(crate) fn of(error: &impl std::error::Error) -> Self {
        Self(granary_api::error::with_causes(error))
    }
}

/// Where paths come from.
pub enum Source {
    /// A cache of a Granary somewhere.
    Remote(RemoteCache),
    /// A cache of the Granary in a directory of this machine.
    Local(Local),
    /// Any binary cache.
    Nars(Box<Nars>),
    /// What a test says.
    #[cfg(test)]
    Scripted(crate::testing::Script),
}

impl Source {
    /// What a person calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Remote(cache) => cache.url(),
            Self::Local(local) => local.name(),
            Self::Nars(nars) => nars.name(),
            #[cfg(test)]
            Self::Scripted(_) => "a script".to_owned(),
        }
    }

    /// Whether what it gives is on this machine's disk already.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Asks for paths. The answer may end early.
    pub(crate) async fn sync(&self, question: SyncPaths) -> Result<Vec<SyncedPath>, SourceError> {
        match self {
            Self::Remote(cache) => {
                cache.sync(&question).await.map_err(|error| SourceError::of(&error))
            }
            Self::Local(local) => local.sync(question).await,
            Self::Nars(nars) => nars.sync(&question).await,
            #[cfg(test)]
            Self::Scripted(script) => script.sync(question).await,
        }
    }

    /// Asks for chunks: records, from which some may be missing.
    pub(crate) async fn read_chunks(
        &self,
        digests: &[castore::Digest],
    ) -> Result<Bytes, SourceError> {
        match self {
            Self::Remote(cache) => {
                let mut question = BytesMut::with_capacity(digests.len() * castore::Digest::LEN);
                digests.iter().for_each(|digest| question.extend_from_slice(digest.as_bytes()));
                let answer = cache.read_chunks(question.freeze()).await;
                answer.map_err(|error| SourceError::of(&error))
            }
            Self::Local(local) => local.read_chunks(digests.to_vec()).await,
            Self::Nars(_) => Ok(Bytes::new()),
            #[cfg(test)]
            Self::Scripted(script) => script.read_chunks(digests).await,
        }
    }

    /// Tells what was touched.
    pub(crate) async fn send_profiles(&self, profiles: &[PathProfile]) -> Result<(), SourceError> {
        match self {
            Self::Remote(cache) => {
                cache.send_profiles(profiles).await.map_err(|error| SourceError::of(&error))
            }
            Self::Local(_) | Self::Nars(_) => Ok(()),
            #[cfg(test)]
            Self::Scripted(script) => script.send_profiles(profiles),
        }
    }

    /// Every path, sorted; `None` when it cannot say, or there are more than `limit`.
    pub(crate) async fn paths(&self, limit: usize) -> Result<Option<Vec<StorePath>>, SourceError> {
        match self {
            Self::Remote(cache) => {
                let mut paths = Vec::new();
                let mut after = None;
                loop {
                    let page = cache.paths(after.as_deref()).await;
                    let page = page.map_err(|error| SourceError::of(&error))?;
                    for path in &page.paths {
                        let path = path.parse::<StorePath>();
                        paths.push(path.map_err(|error| SourceError::of(&error))?);
                    }
                    if paths.len() > limit {
                        return Ok(None);
                    }
                    // A server that goes in circles is not followed.
                    if page.paths.is_empty() || page.next.is_none() || page.next == after {
                        break;
                    }
                    after = page.next;
                }
                paths.sort_unstable();
                Ok(Some(paths))
            }
            Self::Local(local) => local.paths(limit).await,
            Self::Nars(_) => Ok(None),
            #[cfg(test)]
            Self::Scripted(_) => Ok(None),
        }
    }

    /// Fetches a path's NAR, verifies it whole, and gives its chunks to the disk and to `seen`.
    pub(crate) async fn whole(
        &self,
        hash: StorePathHash,
        narinfo: &str,
        trust: &Trust,
        keep: Keep,
    ) -> Result<Whole, SourceError> {
        match self {
            Self::Nars(nars) => nars.whole(hash, narinfo, trust, keep).await,
            Self::Remote(cache) => {
                let token = cache.server().token().cloned().map(Secret::Token);
                let retry = cache.server().retry();
                let source = migrate::Source::open(&cache.url(), |_| token, retry).await;
                let source = source.map_err(|error| SourceError::of(&error))?;
                Nars::new(source, cache.url()).whole(hash, narinfo, trust, keep).await
            }
            Self::Local(_) => Err(SourceError("it is not signed by the cache's keys".to_owned())),
            #[cfg(test)]
            Self::Scripted(_) => Err(SourceError("it has no NARs".to_owned())),
        }
    }
}

/// Is shown chunks, by digest and plain bytes.
pub(crate) type Seen = Arc<dyn Fn(&castore::Digest, &[u8]) + Send + Sync>;

/// What becomes of the chunks of a NAR.
#[derive(Clone)]
pub(crate) struct Keep {
    pub disk: Option<Arc<DiskCache>>,
    /// Is shown each of them.
    pub seen: Seen,
}
