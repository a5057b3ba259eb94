//! Pushing what the queue holds, for as long as it takes.
//!
//! Nothing but [`Pusher::run`]'s caller ends it: a server that cannot be reached is tried again at
//! growing intervals, and so is one that does not take the token, more slowly, or as soon as there
//! is another token. A path that cannot be pushed goes to the queue's failed ones, and its batch
//! goes on without it; where the trouble does not say which path it is about, the paths of the batch
//! are pushed one by one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use granary_api::error::with_causes;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dir_events::DirEvents;
use super::pause::Pauses;
use super::queue::{self, Batch, Drain};
use super::store_watcher::Wants;
use super::trouble::Trouble;
use crate::http::RemoteCache;
use crate::local::{self, Along, LocalStore};
use crate::push::{PlanOptions, PushOptions, Step, plan, push};

/// Paths in a batch, about. Their closures share one question and are sent together.
const BATCH: usize = 200;
/// How long to wait for more paths after the first one: builds come in bursts.
const LINGER: Duration = Duration::from_millis(500);
/// How often an idle pusher looks by itself, for failed paths that are due.
const IDLE: Duration = Duration::from_secs(10);
/// Pauses when the server cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 60);
/// Pauses when somebody has to do something.
const FIRST_SLOW_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_SLOW_PAUSE: Duration = Duration::from_secs(15 * 60);
/// How often to look for another token meanwhile.
const TOKEN_LOOK: Duration = Duration::from_secs(2);
/// After so many paths that fail the server one by one, and none that does not, it is the server.
const SERVER_FAILURES: usize = 3;

/// Makes a connection to the cache, with the token that is configured now.
pub type Connect = Box<dyn Fn() -> Result<RemoteCache, String> + Send + Sync>;

/// How a pusher pushes.
#[derive(Clone, Copy, Debug)]
pub struct PusherOptions {
    /// How plans are made.
    pub plan: PlanOptions,
    /// How paths are pushed.
    pub push: PushOptions,
    /// What goes along with each path besides its closure.
    pub along: Along,
}

/// What a pusher has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Paths that were published, those that others needed among them.
    pub published: usize,
    /// Attempts at a path that came to nothing.
    pub failed: usize,
}

/// How a pusher ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing waits any more.
    Empty,
    /// Time was up, or the server wants something first. What waits stays in the queue.
    Left,
}

/// Pushes what a queue holds. Wants a runtime with threads: the store is asked on the spot.
pub struct Pusher {
    drain: Drain,
    store: Arc<LocalStore>,
    connect: Connect,
    wants: Wants,
    options: PusherOptions,
    remote: Option<RemoteCache>,
    tally: Tally,
}

/// Paths of a batch that could not be pushed, and why.
type Bad = Vec<(StorePath, String)>;

impl Pusher {
    /// A pusher of the paths that are wanted, and of what they need as far as it is wanted.
    pub fn new(
        drain: Drain,
        store: Arc<LocalStore>,
        connect: Connect,
        wants: Wants,
        options: PusherOptions,
    ) -> Self {
        Self { drain, store, connect, wants, options, remote: None, tally: Tally::default() }
    }

    /// What it has done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Pushes until `flush` names a time, and then what still waits until that time at the latest.
    pub async fn run(&mut self, mut flush: watch::Receiver<Option<Instant>>) -> Ended {
        let mut events = DirEvents::watch(&self.drain.queue().entries()).ok();
        let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut slow_pauses = Pauses::new(FIRST_SLOW_PAUSE, LONGEST_SLOW_PAUSE);
        loop {
            let flushing = flush.borrow_and_update().is_some();
            let trouble = match self.next_batch(flushing) {
                Ok(batch) if batch.is_empty() && flushing => return Ended::Empty,
                Ok(batch) if batch.is_empty() => {
                    idle(&mut events, &mut flush).await;
                    continue;
                }
                Ok(batch) => {
                    let mut times_up = flush.clone();
                    tokio::select! {
                        round = self.round(batch) => round.err(),
                        () = time_is_up(&mut times_up) => return Ended::Left,
                    }
                }
                Err(error) => Some(Trouble::Passes(with_causes(&error))),
            };
            let Some(trouble) = trouble else {
                pauses.reset();
                slow_pauses.reset();
                continue;
            };
            let mut times_up = flush.clone();
            tokio::select! {
                again = self.wait(trouble, &mut pauses, &mut slow_pauses, flushing) => {
                    if !again {
                        return Ended::Left;
                    }
                }
                () = changed(&mut flush) => pauses.reset(),
                () = time_is_up(&mut times_up), if flushing => return Ended::Left,
            }
        }
    }

    fn next_batch(&self, flushing: bool) -> Result<Batch, queue::Error> {
        block_in_place(|| {
            let batch = self.drain.take(BATCH)?;
            // Failed paths have had their chance: they do not hold up an end.
            if batch.is_empty() && !flushing { self.drain.take_due(BATCH) } else { Ok(batch) }
        })
    }

    /// Waits as long as the trouble is good for. `false` if there is no point in it.
    async fn wait(
        &mut self,
        trouble: Trouble,
        pauses: &mut Pauses,
        slow_pauses: &mut Pauses,
        flushing: bool,
    ) -> bool {
        match trouble {
            Trouble::Passes(why) | Trouble::Path { why, .. } => {
                let pause = pauses.next();
                tracing::warn!("{why}; trying again in {:.1} s", pause.as_secs_f64());
                sleep(pause).await;
            }
            Trouble::Wants(why) if flushing => {
                tracing::error!("{why}; what waits stays in the queue");
                return false;
            }
            Trouble::Wants(why) => {
                let pause = slow_pauses.next();
                let seconds = pause.as_secs();
                tracing::error!("{why}; trying again in {seconds} s, or when there is a new token");
                // Elapsed or not, it is tried again.
                let _ = timeout(pause, self.another_token()).await;
            }
        }
        true
    }

    /// Waits until the configuration has another token, or another address, than what is in use.
    async fn another_token(&mut self) {
        let old = self.remote.take();
        let key = |remote: &RemoteCache| (remote.url(), remote.server().token().cloned());
        let old = old.as_ref().map(key);
        loop {
            if let Ok(new) = (self.connect)()
                && old != Some(key(&new))
            {
                tracing::info!("there is a new token");
                return;
            }
            sleep(TOKEN_LOOK).await;
        }
    }

    /// Pushes a batch and takes it out of the queue, or leaves it there.
    async fn round(&mut self, batch: Batch) -> Result<(), Trouble> {
        let bad = match self.push(&batch.paths).await {
            Ok(bad) => bad,
            Err(Trouble::Path { why, .. }) if batch.paths.len() > 1 => {
                tracing::warn!("{why}; pushing {} paths one by one", batch.paths.len());
                self.push_singly(&batch.paths).await?
            }
            Err(Trouble::Path { why, server: false }) => {
                batch.paths.iter().map(|path| (path.clone(), why.clone())).collect()
            }
            Err(trouble) => return Err(trouble),
        };
        let settled = block_in_place(|| self.drain.settle(batch, &bad));
        let settled = settled.map_err(|error| Trouble::Passes(with_causes(&error)))?;
        self.tally.failed += settled.len();
        for failed in settled {
            let (path, reason, attempts) = (failed.path, failed.reason, failed.attempts);
            tracing::warn!("not pushed: {path}: {reason} (attempt {attempts})");
        }
        Ok(())
    }

    async fn push_singly(&mut self, paths: &[StorePath]) -> Result<Bad, Trouble> {
        let (mut bad, mut suspects, mut good) = (Vec::new(), Vec::new(), false);
        for path in paths {
            match self.push(std::slice::from_ref(path)).await {
                Ok(more) => {
                    good = true;
                    bad.extend(more);
                }
                Err(Trouble::Path { why, server: false }) => bad.push((path.clone(), why)),
                Err(Trouble::Path { why, server: true }) => suspects.push((path.clone(), why)),
                Err(trouble) => return Err(trouble),
            }
            if !good && suspects.len() >= SERVER_FAILURES {
                break;
            }
        }
        if let Some((_, why)) = suspects.first().filter(|_| !good) {
            return Err(Trouble::Passes(why.clone()));
        }
        bad.extend(suspects);
        Ok(bad)
    }

    /// Pushes paths with what they need. Returns those that cannot be pushed.
    async fn push(&mut self, paths: &[StorePath]) -> Result<Bad, Trouble> {
        let remote = match &self.remote {
            Some(remote) => remote.clone(),
            None => {
                let remote = (self.connect)().map_err(Trouble::Wants)?;
                self.remote.insert(remote).clone()
            }
        };
        let (mut infos, mut bad) = block_in_place(|| self.closure(paths))?;
        infos.retain(|info| (self.wants)(&info.store_path));
        if infos.is_empty() {
            return Ok(bad);
        }
        let plan = plan(&remote, infos, self.store.store_dir(), self.options.plan).await?;
        let places = |path: &StorePath| self.store.real_path(path);
        let observer = |at: usize, step| {
            if let (Some(info), Step::Published) = (plan.to_push.get(at), step) {
                tracing::info!("pushed {} ({} bytes)", info.store_path, info.nar_size);
            }
        };
        let summary = push(&remote, &plan, &places, self.options.push, &observer).await?;
        self.tally.published += summary.published;
        bad.extend(summary.failed);
        Ok(bad)
    }

    /// The closure of the paths. One that was collected meanwhile needs no push, and one that is
    /// damaged does not stop the others.
    fn closure(&self, paths: &[StorePath]) -> Result<(Vec<PathInfo>, Bad), Trouble> {
        use local::Error::{Dangling, NotValid};
        let closure = |paths: &[StorePath]| self.store.closure_with(paths, self.options.along);
        let failed = |error| Trouble::Passes(with_causes(&error));
        match closure(paths) {
            Ok(infos) => return Ok((infos, Vec::new())),
            Err(NotValid(_) | Dangling { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        let (mut infos, mut bad, mut known) = (Vec::new(), Vec::new(), HashSet::new());
        for path in paths {
            match closure(std::slice::from_ref(path)) {
                Ok(more) => infos
                    .extend(more.into_iter().filter(|info| known.insert(info.store_path.clone()))),
                Err(NotValid(_)) => tracing::info!("no longer in the store: {path}"),
                Err(error @ Dangling { .. }) => bad.push((path.clone(), error.to_string())),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok((infos, bad))
    }
}

/// Waits until there may be something to push, and a moment for more of it.
async fn idle(events: &mut Option<DirEvents>, flush: &mut watch::Receiver<Option<Instant>>) {
    let news = async {
        let Some(watched) = events else { return sleep(LINGER).await };
        if watched.next().await.is_err() {
            *events = None;
        }
    };
    tokio::select! {
        () = news => {}
        () = sleep(IDLE) => return,
        () = changed(flush) => return,
    }
    tokio::select! {
        () = sleep(LINGER) => {}
        () = changed(flush) => {}
    }
}

/// Waits until the flush is asked for.
async fn changed(flush: &mut watch::Receiver<Option<Instant>>) {
    if flush.changed().await.is_err() {
        // Nobody will ask any more.
        std::future::pending().await
    }
    // Whoever looks next is to see it.
    flush.mark_changed();
}

/// Waits until the time for the flush is up.
async fn time_is_up(flush: &mut watch::Receiver<Option<Instant>>) {
    let until = flush.wait_for(Option::is_some).await.ok().and_then(|until| *until);
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
