//! Following the store: what becomes valid in it goes into the queue.
//!
//! Nix moves a path into place, or writes it there, and registers it when it is whole; so a name
//! that inotify tells of is only asked about until it is valid. What inotify does not tell (its queue
//! overflowed, nobody watched, a path was registered long after it appeared) a look at all valid
//! paths finds, at the start, every [`WatchOptions::poll_interval`], and when events were lost.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use granary_api::error::with_causes;
use nix_compat::store_path::StorePath;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use super::dir_events::{DirEvent, DirEvents};
use super::queue::{self, Queue};
use super::seen::Seen;
use crate::local::{self, LocalStore};

/// How soon a path that appeared is asked about first: Nix registers most within milliseconds.
const FIRST_CHECK: Duration = Duration::from_millis(50);
/// And how seldom later: builds without a sandbox make their output where it will be.
const LONGEST_CHECK: Duration = Duration::from_secs(5);
/// Names that are asked about are at most so many. The rest is found by the next poll.
const MAX_PENDING: usize = 10_000;
/// A name that is not valid after so long is left to the polls.
const GIVE_UP: Duration = Duration::from_secs(3600);
/// When a poll failed the next one is not later than this.
const POLL_AGAIN: Duration = Duration::from_secs(10);

/// Whether a path is wanted, by its name.
pub type Wants = Arc<dyn Fn(&StorePath) -> bool + Send + Sync>;

/// What to watch for.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// How often all valid paths are looked at.
    pub poll_interval: Duration,
    /// Take derivations too.
    pub derivations: bool,
    /// Take also what is there at the start.
    pub all: bool,
    /// Take up where an earlier watcher of the same queue has left off.
    pub resume: bool,
}

/// Why the store cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The store.
    #[error("cannot ask the Nix store for its paths")]
    Store(#[from] local::Error),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// What was seen.
    #[error("cannot remember which paths were seen, in {}", dir.display())]
    Seen {
        /// The queue.
        dir: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Follows a store. Wants a runtime with threads: the store is asked on the spot.
pub struct StoreWatcher {
    store: Arc<LocalStore>,
    queue: Queue,
    wants: Wants,
    options: WatchOptions,
    seen: Seen,
    /// `None` where inotify does not work.
    events: Option<DirEvents>,
    /// Names that appeared, and when.
    pending: HashMap<StorePath, Instant>,
}

impl StoreWatcher {
    /// Begins: no path that becomes valid after this is missed.
    pub async fn start(
        store: Arc<LocalStore>,
        queue: Queue,
        wants: Wants,
        options: WatchOptions,
    ) -> Result<Self, WatchError> {
        let file = options.resume.then(|| queue.dir().join("seen"));
        let seen = Seen::nothing(file.clone());
        let pending = HashMap::new();
        let mut watcher = Self { store, queue, wants, options, seen, events: None, pending };
        watcher.watch();
        let earlier = match file {
            Some(file) => Seen::load(file).map_err(|source| watcher.seen_error(source))?,
            None => None,
        };
        match earlier {
            _ if options.all => {}
            Some(seen) => watcher.seen = seen,
            None => watcher.seen.replace(&block_in_place(|| watcher.store.all_paths())?),
        }
        watcher.poll()?;
        Ok(watcher)
    }

    /// Follows the store until `stop`.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut poll_at = Instant::now() + self.options.poll_interval;
        let (mut check_after, mut check_at) = (FIRST_CHECK, Instant::now());
        loop {
            tokio::select! {
                () = &mut stop => return,
                news = next(&mut self.events) => match news {
                    Ok(news) => {
                        if self.hear(news) {
                            tracing::warn!("inotify lost events: looking at the whole store");
                            poll_at = Instant::now();
                        }
                        // Sooner, if anything: news that never ends must not put it off for ever.
                        check_after = FIRST_CHECK;
                        check_at = check_at.min(Instant::now() + check_after);
                    }
                    Err(error) => {
                        tracing::warn!("the store can no longer be watched ({error}): polling it");
                        self.events = None;
                    }
                },
                () = sleep_until(check_at), if !self.pending.is_empty() => {
                    if let Err(error) = self.check() {
                        tell(&error);
                    }
                    check_after = (check_after * 2).min(LONGEST_CHECK);
                    check_at = Instant::now() + check_after;
                }
                () = sleep_until(poll_at) => poll_at = Instant::now() + self.poll_or_tell(),
            }
        }
    }

    /// A last look, before an end.
    pub fn finish(mut self) -> Result<(), WatchError> {
        self.poll()
    }

    /// How long until the next poll.
    fn poll_or_tell(&mut self) -> Duration {
        if self.events.is_none() {
            self.watch();
        }
        match self.poll() {
            Ok(()) => self.options.poll_interval,
            Err(error) => {
                tell(&error);
                self.options.poll_interval.min(POLL_AGAIN)
            }
        }
    }

    fn watch(&mut self) {
        let dir = self.store.real_dir();
        match DirEvents::watch(dir) {
            Ok(events) => self.events = Some(events),
            Err(error) => {
                let every = self.options.poll_interval.as_secs();
                let dir = dir.display();
                tracing::warn!("cannot watch {dir} ({error}): looking at it every {every} s");
            }
        }
    }

    /// Takes news in; whether some were lost.
    fn hear(&mut self, news: Vec<DirEvent>) -> bool {
        let mut missed = false;
        for event in news {
            match event {
                DirEvent::Appeared(name) => {
                    // Replaced by a link to an equal file, if it was seen.
                    let new = |path: &StorePath| !self.seen.contains(path) && self.takes(path);
                    if let Some(path) = read(&name).filter(new)
                        && self.pending.len() < MAX_PENDING
                    {
                        self.pending.entry(path).or_insert_with(Instant::now);
                    }
                }
                DirEvent::Gone(name) => {
                    if let Some(path) = read(&name) {
                        self.pending.remove(&path);
                        self.seen.remove(&path);
                    }
                }
                DirEvent::Missed => missed = true,
            }
        }
        missed
    }

    /// Asks about names that appeared.
    fn check(&mut self) -> Result<(), WatchError> {
        let names: Vec<_> = self.pending.keys().cloned().collect();
        block_in_place(|| {
            let infos = self.store.path_infos(&names)?;
            let valid = infos.into_iter().flatten().map(|info| info.store_path).collect();
            self.enqueue(valid)?;
            let (seen, store) = (&self.seen, &self.store);
            self.pending.retain(|path, since| {
                let there = || store.real_path(path).symlink_metadata().is_ok();
                !seen.contains(path) && since.elapsed() < GIVE_UP && there()
            });
            Ok(())
        })
    }

    /// Looks at all valid paths.
    fn poll(&mut self) -> Result<(), WatchError> {
        block_in_place(|| {
            let valid = self.store.all_paths()?;
            self.enqueue(valid.iter().filter(|path| !self.seen.contains(path)).cloned().collect())?;
            self.seen.replace(&valid);
            self.pending.retain(|path, _| !self.seen.contains(path));
            self.seen.save().map_err(|source| self.seen_error(source))
        })
    }

    /// Brings valid paths into the queue, those that are wanted. Only then they are seen.
    fn enqueue(&mut self, mut valid: Vec<StorePath>) -> Result<(), WatchError> {
        valid.retain(|path| self.takes(path));
        if valid.is_empty() {
            return Ok(());
        }
        self.queue.add(&valid)?;
        valid.iter().for_each(|path| self.seen.insert(path));
        tracing::debug!("{} new paths in the store", valid.len());
        Ok(())
    }

    fn takes(&self, path: &StorePath) -> bool {
        (self.options.derivations || !path.is_derivation()) && (self.wants)(path)
    }

    fn seen_error(&self, source: io::Error) -> WatchError {
        WatchError::Seen { dir: self.queue.dir().to_owned(), source }
    }
}

/// The store path with that name. `.links` and what Nix makes for a moment have none; locks have
/// one, and go before they are valid.
fn read(name: &OsStr) -> Option<StorePath> {
    name.to_str()?.parse().ok()
}

async fn next(events: &mut Option<DirEvents>) -> io::Result<Vec<DirEvent>> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

fn tell(error: &WatchError) {
    tracing::warn!("{}; trying again", with_causes(error));
}
