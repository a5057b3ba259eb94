//! Narinfos in memory, as they are sent.
//!
//! They outlive the [`Cache`](super::Cache) object that rendered them: a change of settings makes a
//! new one, and requests that still work with the old one must make the new one forget, too. So
//! each says under which settings it was rendered, and until when its signatures are to be shown; and so
//! that a path is not shown whose contents are lost, it is rendered anew whenever a tree breaks.
//!
//! Where other servers publish to the same cache, what is here may be out of date: what was absent may
//! be there by now, so that is not remembered at all, and what is there is rendered anew after a few
//! seconds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use castore::{Clock, Store};
use nix_compat::store_path::StorePathHash;
use quick_cache::sync::GuardResult;

use super::{CacheError, Tag};

/// Narinfos held in memory, in bytes. Room for some 20 000.
const CAPACITY: u64 = 16 * 1024 * 1024;

/// How long a narinfo counts where others may change it. One that was published anew by another server
/// is shown after this; until then the old one is, whose NAR is still there.
const FRESH: Duration = Duration::from_secs(5);

/// A narinfo as it is sent. Its tag is made when it is rendered: what is read most of all is not
/// hashed for each reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentNarinfo {
    /// The text.
    pub text: Bytes,
    /// The tag of the text.
    pub tag: Tag,
}

impl SentNarinfo {
    pub(super) fn new(text: String) -> Self {
        Self { tag: Tag::of(text.as_bytes()), text: text.into() }
    }
}

/// What narinfos are made from besides the facts of their paths.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// Sequence number of the settings.
    pub(super) settings: u64,
    /// How often a tree broke or was mended so far.
    pub(super) broken: u64,
}

/// A narinfo, or the knowledge that there is none.
#[derive(Clone)]
pub(super) struct Rendered {
    pub(super) narinfo: Option<SentNarinfo>,
    /// What it was made from.
    pub(super) basis: Basis,
    /// When a key that signed it ends, in seconds since 1970.
    pub(super) until: Option<u64>,
    /// When that was.
    pub(super) rendered: Instant,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<StorePathHash, Rendered> for Weight {
    fn weight(&self, _: &StorePathHash, rendered: &Rendered) -> u64 {
        let sent = |narinfo: &SentNarinfo| narinfo.text.len() + narinfo.tag.as_bytes().len();
        200 + rendered.narinfo.as_ref().map_or(0, sent) as u64
    }
}

pub(super) struct RenderedNarinfos {
    inner: quick_cache::sync::Cache<StorePathHash, Rendered, Weight>,
    /// Whether other processes publish to the same cache.
    shared: bool,
    clock: Clock,
}

impl RenderedNarinfos {
    pub(super) fn new(store: &Store) -> Self {
        let inner = quick_cache::sync::Cache::with_weighter(20_000, CAPACITY, Weight);
        Self { inner, shared: store.is_shared(), clock: store.clock().clone() }
    }

    fn is_good(&self, rendered: &Rendered, basis: Basis) -> bool {
        let in_time = || rendered.until.is_none_or(|until| self.clock.now() < until);
        let fresh = || rendered.narinfo.is_some() && rendered.rendered.elapsed() < FRESH;
        rendered.basis == basis && in_time() && (!self.shared || fresh())
    }

    /// What was rendered for this path from that, and may still be sent.
    pub(super) fn get(&self, hash: StorePathHash, basis: Basis) -> Option<Option<SentNarinfo>> {
        let found = self.inner.get(&hash).filter(|rendered| self.is_good(rendered, basis));
        found.map(|rendered| rendered.narinfo)
    }

    /// The same, rendering it first if need be.
    pub(super) fn get_or_render(
        &self,
        hash: StorePathHash,
        basis: Basis,
        render: impl Fn() -> Result<Rendered, CacheError>,
    ) -> Result<Option<SentNarinfo>, CacheError> {
        self.inner.remove_if(&hash, |rendered| !self.is_good(rendered, basis));
        // The guard keeps others from reading at the same time, and an entry from being put in
        // that a publication has made obsolete meanwhile.
        match self.inner.get_value_or_guard(&hash, None) {
            GuardResult::Value(rendered) if self.is_good(&rendered, basis) => Ok(rendered.narinfo),
            GuardResult::Guard(guard) => {
                let rendered = render()?;
                let _ = guard.insert(rendered.clone());
                Ok(rendered.narinfo)
            }
            GuardResult::Value(_) | GuardResult::Timeout => Ok(render()?.narinfo),
        }
    }

    /// What is known of a path may have changed.
    pub(super) fn forget(&self, hash: StorePathHash) {
        self.inner.remove(&hash);
    }
}
