//! Narinfos in memory, as they are sent.
//!
//! They outlive the [`Cache`](super::Cache) object that rendered them: a change of settings makes a
//! new one, and requests that still work with the old one must make the new one forget, too. So
//! each says under which settings it was rendered, and until when its signatures are to be shown.

use bytes::Bytes;
use nix_compat::store_path::StorePathHash;
use quick_cache::sync::GuardResult;

use super::{CacheError, Tag};

/// Narinfos held in memory, in bytes. Room for some 20 000.
const CAPACITY: u64 = 16 * 1024 * 1024;

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

/// A narinfo, or the knowledge that there is none.
#[derive(Clone)]
pub(super) struct Rendered {
    pub(super) narinfo: Option<SentNarinfo>,
    /// Sequence number of the settings.
    pub(super) settings: u64,
    /// When a key that signed it ends, in seconds since 1970.
    pub(super) until: Option<u64>,
}

impl Rendered {
    fn is_good(&self, settings: u64) -> bool {
        let in_time = || self.until.is_none_or(|until| crate::storehouse::now() < until);
        self.settings == settings && in_time()
    }
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
}

impl RenderedNarinfos {
    pub(super) fn new() -> Self {
        Self { inner: quick_cache::sync::Cache::with_weighter(20_000, CAPACITY, Weight) }
    }

    /// What was rendered for this path under these settings, and may still be sent.
    pub(super) fn get(&self, hash: StorePathHash, settings: u64) -> Option<Option<SentNarinfo>> {
        let found = self.inner.get(&hash).filter(|rendered| rendered.is_good(settings));
        found.map(|rendered| rendered.narinfo)
    }

    /// The same, rendering it first if need be.
    pub(super) fn get_or_render(
        &self,
        hash: StorePathHash,
        settings: u64,
        render: impl Fn() -> Result<Rendered, CacheError>,
    ) -> Result<Option<SentNarinfo>, CacheError> {
        self.inner.remove_if(&hash, |rendered| !rendered.is_good(settings));
        // The guard keeps others from reading at the same time, and an entry from being put in
        // that a publication has made obsolete meanwhile.
        match self.inner.get_value_or_guard(&hash, None) {
            GuardResult::Value(rendered) if rendered.is_good(settings) => Ok(rendered.narinfo),
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
