//! Keeping up with other servers on the same store.
//!
//! Caches and revocations are held in memory. Whoever changes one touches a topic; everybody looks at
//! the topics once a second, and reads anew what was touched. A cache that is not known at all is
//! looked up when it is asked for, so one that was just made elsewhere is there at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Storehouse, StorehouseError};
use crate::cache::CacheName;
use crate::records::cache_key;

/// Touched by who makes or changes a cache.
pub(super) const CACHES: &str = "caches";
/// Touched by who revokes tokens.
pub(crate) const REVOCATIONS: &str = "revocations";

/// How often others' changes are looked for: what was changed elsewhere is in force here after this.
const LOOK: Duration = Duration::from_secs(1);

/// Up to which change of each topic this server has seen.
#[derive(Default)]
pub(super) struct Fresh {
    caches: AtomicU64,
    revocations: AtomicU64,
}

impl Storehouse {
    /// Takes in what others have changed. Blocks.
    pub fn refresh(&self) -> Result<(), StorehouseError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        self.store.keep_up()?;
        self.broken.refresh()?;
        let caches = self.store.last_touched(CACHES)?;
        if caches != self.fresh.caches.load(Ordering::Relaxed) {
            self.load_caches()?;
            self.fresh.caches.store(caches, Ordering::Relaxed);
        }
        let revocations = self.store.last_touched(REVOCATIONS)?;
        if revocations != self.fresh.revocations.load(Ordering::Relaxed) {
            self.revocations.reload()?;
            self.fresh.revocations.store(revocations, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Goes on taking in what others change, for as long as the storehouse is in use.
    pub fn keep_fresh(self: &Arc<Self>) -> std::io::Result<()> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let house: Weak<Self> = Arc::downgrade(self);
        let look = move || {
            let mut failing = false;
            loop {
                std::thread::sleep(LOOK);
                let Some(house) = house.upgrade() else { return };
                match house.refresh() {
                    Ok(()) => failing = false,
                    // Once is enough to say it.
                    Err(error) if !failing => {
                        tracing::warn!(%error, "what other servers change cannot be seen");
                        failing = true;
                    }
                    Err(_) => {}
                }
            }
        };
        std::thread::Builder::new().name("refresh".to_owned()).spawn(look).map(drop)
    }

    /// Whether a cache that is not known may have been made by another server.
    pub fn may_know_more(&self, name: &str) -> bool {
        self.store.is_shared() && self.cache(name).is_none() && name.parse::<CacheName>().is_ok()
    }

    /// Looks for a cache that is not known. Blocks.
    pub fn look_for_cache(&self, name: &str) -> Result<(), StorehouseError> {
        match self.store.fact(&cache_key(name))? {
            Some(fact) => self.load_cache(name, &fact),
            None => Ok(()),
        }
    }
}
