//! Who refers to whom.
//!
//! Path infos say what a path refers to; the reverse is kept here, for paths whose info was asked for
//! and, once somebody wants to know referrers, for every path of the view. That takes a path info of
//! each, so it is done once, in the background; whoever does not want to wait is told how far it is.
//!
//! Where the view cannot list its paths, or they are more than are remembered, the answer is what is
//! known from infos that went through this daemon. Those of a store on top of this one are among
//! them: it asked for each path info before it took the path for its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use granary_lazy::{View, ViewError};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StorePath, StorePathHash};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::answers::AT_ONCE;
use crate::refusal::Refusal;

/// References remembered for each path that may be, on average.
const PER_PATH: usize = 16;

/// Who refers to whom, as far as it is known.
#[derive(Debug)]
pub struct Referrers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// How many paths are remembered.
    limit: usize,
    known: Mutex<Known>,
    gathering: Mutex<Gathering>,
    done: AtomicUsize,
    total: AtomicUsize,
}

/// Paths have numbers, so that a reference takes four bytes.
#[derive(Debug, Default)]
struct Known {
    paths: Vec<StorePath>,
    numbers: HashMap<StorePathHash, u32>,
    referrers: HashMap<StorePathHash, Vec<u32>>,
    references: usize,
    full: bool,
}

#[derive(Debug)]
enum Gathering {
    /// Nobody asked yet, or it failed.
    NotYet,
    /// How it ended, once it has.
    Runs(watch::Receiver<Option<Result<(), ViewError>>>, AbortHandle),
    Done,
}

impl Referrers {
    /// Remembers `limit` paths.
    pub fn new(limit: usize) -> Self {
        let shared = Shared {
            limit,
            known: Mutex::default(),
            gathering: Mutex::new(Gathering::NotYet),
            done: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
        };
        Referrers { shared: Arc::new(shared) }
    }

    /// Remembers what a path refers to.
    pub fn note(&self, info: &PathInfo) {
        self.shared.note(info);
    }

    /// Who refers to the path of this hash.
    pub async fn of<V: View>(
        &self,
        view: &Arc<V>,
        hash: StorePathHash,
        deadline: Duration,
    ) -> Result<Vec<StorePath>, Refusal> {
        if let Some(mut end) = self.start(view) {
            let ended = tokio::time::timeout(deadline, end.wait_for(Option::is_some)).await;
            match ended.map(|ended| ended.map(|end| end.clone())) {
                Ok(Ok(Some(Err(error)))) => return Err(error.into()),
                Ok(Ok(_)) => {}
                // It was given up.
                Ok(Err(_)) => return Err(Refusal::Stopping),
                Err(_) => {
                    return Err(Refusal::Gathering {
                        name: view.name().to_owned(),
                        done: self.shared.done.load(Ordering::Relaxed),
                        total: self.shared.total.load(Ordering::Relaxed),
                    });
                }
            }
        }
        Ok(self.shared.known().of(hash))
    }

    /// Gives up gathering.
    pub fn stop(&self) {
        if let Gathering::Runs(_, task) = &*self.shared.gathering() {
            task.abort();
        }
    }

    /// Gathers all there is, unless that was done; what it gives ends when it does.
    fn start<V: View>(
        &self,
        view: &Arc<V>,
    ) -> Option<watch::Receiver<Option<Result<(), ViewError>>>> {
        let mut gathering = self.shared.gathering();
        match &*gathering {
            Gathering::Done => return None,
            // A task that was given up has no sender any more, and is done anew.
            Gathering::Runs(end, _) if end.has_changed().is_ok() || end.borrow().is_some() => {
                return Some(end.clone());
            }
            Gathering::Runs(..) | Gathering::NotYet => {}
        }
        let (sender, end) = watch::channel(None);
        let (shared, view) = (Arc::clone(&self.shared), Arc::clone(view));
        let task = tokio::spawn(async move {
            let ended = shared.gather(&view).await;
            let next = if ended.is_ok() { Gathering::Done } else { Gathering::NotYet };
            *shared.gathering() = next;
            sender.send_replace(Some(ended));
        });
        *gathering = Gathering::Runs(end.clone(), task.abort_handle());
        Some(end)
    }
}

impl Shared {
    async fn gather<V: View>(&self, view: &Arc<V>) -> Result<(), ViewError> {
        self.done.store(0, Ordering::Relaxed);
        let Some(paths) = view.paths().await? else {
            return Ok(());
        };
        self.total.store(paths.len(), Ordering::Relaxed);
        if paths.len() > self.limit {
            tracing::info!(
                "{} has {} paths, too many to remember who refers to whom among them: \
                 referrers are those among the paths that clients asked for",
                view.name(),
                paths.len()
            );
            return Ok(());
        }
        let unknown: Vec<_> = {
            let known = self.known();
            let unknown = |path: &&StorePath| !known.numbers.contains_key(&path.hash());
            paths.iter().filter(unknown).map(StorePath::hash).collect()
        };
        self.done.store(paths.len() - unknown.len(), Ordering::Relaxed);
        stream::iter(unknown)
            .map(|hash| view.info(hash))
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |info| {
                if let Some(info) = info {
                    self.note(&info);
                }
                self.done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .await
    }

    fn note(&self, info: &PathInfo) {
        let mut known = self.known();
        let references = known.references + info.references.len();
        if known.full || known.numbers.contains_key(&info.store_path.hash()) {
            return;
        }
        if known.paths.len() >= self.limit || references > self.limit.saturating_mul(PER_PATH) {
            known.full = true;
            tracing::info!(
                "the references of {} paths are remembered, and of no more",
                known.paths.len()
            );
            return;
        }
        let Ok(number) = u32::try_from(known.paths.len()) else { return };
        known.numbers.insert(info.store_path.hash(), number);
        known.paths.push(info.store_path.clone());
        for reference in &info.references {
            known.referrers.entry(reference.hash()).or_default().push(number);
        }
        known.references = references;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gathering(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(&self, hash: StorePathHash) -> Vec<StorePath> {
        let numbers = self.referrers.get(&hash).map(Vec::as_slice).unwrap_or_default();
        let path = |number: &u32| self.paths.get(*number as usize).cloned();
        let mut paths: Vec<_> = numbers.iter().filter_map(path).collect();
        paths.sort_unstable();
        paths
    }
}
