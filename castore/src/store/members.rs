//! Several processes on one store: learning of each other's packs, and asking for what others still
//! hold back.
//!
//! Chunks that were sent to one process are in its spool until it commits, or its pack is full.
//! Somebody who publishes at another one needs them there. So that one asks all others to *flush*:
//! to store what has grown so far; and looks at the registry when they have.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::objects::rows_of;
use super::{Store, StoreError};
use crate::index::News;

/// How long others may take to flush. One that takes longer has to be done without: what it holds
/// counts as missing, and is sent again.
const FLUSH: Duration = Duration::from_secs(10);
/// How often it is looked whether one that was asked is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Questions under way, by number, with who has answered.
#[derive(Default)]
pub(super) struct Flushes {
    answered: Mutex<HashMap<u64, HashSet<u64>>>,
    news: Condvar,
}

impl Flushes {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, HashSet<u64>>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Whether other processes may change what is here.
    pub fn is_shared(&self) -> bool {
        self.index.shared().is_some()
    }

    /// Takes in the packs that others have stored since the last time.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        let Some(registry) = &self.registry else { return Ok(()) };
        let mut some_gone = false;
        let taken_in = registry.news(|entry| {
            if entry.is_removal() {
                self.packs.gone(entry.id);
                self.packs.close(entry.id);
                some_gone = true;
                return Ok(());
            }
            if self.packs.slot_of(entry.id).is_some() {
                return Ok(());
            }
            let Some(rows) = rows_of(&self.packs, &entry)? else { return Ok(()) };
            let slot = self.packs.add(entry.id, true, None);
            self.locations.add_footer(slot, entry.rows_at, &rows);
            Ok::<_, StoreError>(())
        });
        if some_gone {
            self.locations.leave_out_gone();
        }
        taken_in
    }

    /// Takes in everything that other processes have done: their packs, what the collector decided, what
    /// was found to be damaged; and keeps this one's leases. To be called every few seconds where others
    /// share the index.
    pub fn keep_up(&self) -> Result<(), StoreError> {
        self.catch_up()?;
        self.follow_epoch()?;
        self.load_damaged()?;
        self.renew_leases()
    }

    /// Has all others store what they hold back, and takes it in. Blocks.
    pub fn gather(&self) -> Result<(), StoreError> {
        let Some(shared) = self.index.shared() else { return Ok(()) };
        let mut awaited: HashSet<u64> = shared.others()?.into_iter().collect();
        if !awaited.is_empty() {
            let mut number = [0; 8];
            getrandom::fill(&mut number).map_err(std::io::Error::other)?;
            let number = u64::from_be_bytes(number);
            self.flushes.lock().insert(number, HashSet::new());
            let said = shared.say(&format!("flush {number:x}"));
            let deadline = Instant::now() + FLUSH;
            while said.is_ok() && Instant::now() < deadline {
                let answered = self.flushes.lock();
                let waited = self.flushes.news.wait_timeout_while(answered, LOOK, |answered| {
                    !answered.get(&number).is_some_and(|done| awaited.is_subset(done))
                });
                let (answered, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                if !timeout.timed_out() {
                    break;
                }
                drop(answered);
                let there = shared.others()?;
                awaited.retain(|member| there.contains(member));
            }
            self.flushes.lock().remove(&number);
            said?;
        }
        self.catch_up()
    }

    /// Listens to the others.
    pub(super) fn listen(self: &Arc<Self>) {
        let Some(shared) = self.index.shared() else { return };
        let store: Weak<Self> = Arc::downgrade(self);
        shared.listen(Box::new(move |news| {
            if let (Some(store), News::Said { from, text }) = (store.upgrade(), news) {
                store.hear(from, &text);
            }
        }));
    }

    fn hear(&self, from: u64, text: &str) {
        let Some((verb, number)) = text.split_once(' ') else { return };
        let Ok(number) = u64::from_str_radix(number, 16) else { return };
        match verb {
            "flush" => {
                if let Err(error) = self.log.sync() {
                    tracing::warn!(%error, "what another server asks for cannot be stored yet");
                }
                let said =
                    self.index.shared().map(|shared| shared.say(&format!("flushed {number:x}")));
                if let Some(Err(error)) = said {
                    tracing::warn!(%error, "another server cannot be told that it was done");
                }
            }
            "flushed" => {
                if let Some(answered) = self.flushes.lock().get_mut(&number) {
                    answered.insert(from);
                }
                self.flushes.news.notify_all();
            }
            _ => {}
        }
    }
}
