//! NARs as objects of their own, which clients fetch from the object store by themselves.
//!
//! A pack is no NAR, however well they fit: there are headers in it, and other things. So for large NARs
//! that somebody reads, a copy is made, the very bytes that are sent otherwise, and whoever asks from
//! then on is sent there. A copy that is removed is made again when it is wanted.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use castore::Store;

use super::NarFile;
use crate::nar::NarBody;

/// How long a URL can be used. A client follows it at once, and may resume later.
const EXPIRES: Duration = Duration::from_secs(3600);
/// How long a copy that was there is taken to be there still.
const FRESH: Duration = Duration::from_secs(60);
/// Copies that are remembered to be there.
const REMEMBERED: usize = 10_000;
/// Copies that are made at once; the next reader begins another.
const MAKING: usize = 2;

/// The copies of a store's NARs.
pub struct Copies {
    known: quick_cache::sync::Cache<String, Instant>,
    making: Mutex<HashSet<String>>,
}

impl Default for Copies {
    fn default() -> Self {
        let known = quick_cache::sync::Cache::new(REMEMBERED);
        Self { known, making: Mutex::default() }
    }
}

impl Copies {
    /// Where the NAR is to be had directly; `None` if it has to be sent, because there is no copy. Then
    /// one is begun. Blocks for a moment.
    pub fn url_of(self: &Arc<Self>, nar: &NarFile) -> Option<String> {
        let direct = nar.store().direct()?;
        let len = nar.len()?;
        let name = format!("nars/{}-{len}.nar.zst", nar.tree_digest());
        let known = || self.known.get(&name).is_some_and(|seen| seen.elapsed() < FRESH);
        let found = known()
            || match direct.stored(&name) {
                Ok(stored) => stored == Some(len),
                Err(error) => {
                    tracing::debug!(%error, name, "whether there is a copy cannot be told");
                    return None;
                }
            };
        if !found {
            self.begin(nar, name, len);
            return None;
        }
        self.known.insert(name.clone(), Instant::now());
        let url = direct.url(&name, EXPIRES);
        url.inspect_err(|error| tracing::warn!(%error, name, "no URL for a copy")).ok()
    }

    fn making(&self) -> MutexGuard<'_, HashSet<String>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, nar: &NarFile, name: String, len: u64) {
        {
            let mut making = self.making();
            if making.len() >= MAKING || !making.insert(name.clone()) {
                return;
            }
        }
        let (copies, nar, made) = (self.clone(), nar.clone(), name.clone());
        let work = move || {
            match make(nar.store().clone(), &nar, &made, len) {
                Ok(()) => tracing::info!(name = made, len, "a NAR was copied to be read directly"),
                Err(error) => tracing::warn!(%error, name = made, "a NAR could not be copied"),
            }
            copies.making().remove(&made);
        };
        if std::thread::Builder::new().name("copy-nar".to_owned()).spawn(work).is_err() {
            self.making().remove(&name);
        }
    }
}

fn make(store: Arc<Store>, nar: &NarFile, name: &str, len: u64) -> std::io::Result<()> {
    let Some(direct) = store.direct() else { return Ok(()) };
    direct.store(name, len, &mut |file| {
        let body = nar.clone().body(None).map_err(std::io::Error::other);
        let mut body: Box<dyn NarBody> = body?;
        while let Some(window) = body.next_window().map_err(std::io::Error::other)? {
            file.write_all(&window)?;
        }
        Ok(())
    })
}
