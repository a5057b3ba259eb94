//! What the commands that watch share: options, the queue, a pusher, signals.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use granary_api::duration;
use granary_client::config::CacheRef;
use granary_client::local::{Along, LocalStore};
use granary_client::watch::{
    Drain, Ended, Pusher, PusherOptions, Queue, StoreWatcher, Tally, Wants, WatchOptions,
    queue_name,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::commands::push::{HowToPush, Selection};
use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};
use crate::remote::RemoteArgs;

/// What to watch for, and how to push it.
#[derive(Args)]
pub struct Watching {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    how: HowToPush,
    /// How often to look at all paths of the store, for what inotify did not tell
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = span)]
    poll_interval: Duration,
    /// How long to go on pushing at the end
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    flush_timeout: Duration,
}

/// Which queue.
#[derive(Args)]
pub struct QueueArgs {
    /// Folder of the queue [default: $XDG_STATE_HOME/granary/queue/HOST-CACHE]
    #[arg(long, value_name = "DIR", env = "GRANARY_QUEUE")]
    queue: Option<PathBuf>,
}

fn span(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        0 => Err("it has to be longer than that".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

impl QueueArgs {
    /// The queue of a cache. The server is not asked.
    pub fn open(&self, remote: &RemoteArgs, cache: &CacheRef) -> Result<Queue, Failure> {
        let target = remote.target_of(cache)?;
        let url = target.url.join(&format!("/{}", cache.cache));
        let dir = match &self.queue {
            Some(dir) => dir.clone(),
            None => {
                let state = default_data_dir().map_err(|_| {
                    Failure::new("neither HOME nor XDG_STATE_HOME is set: name a --queue folder")
                })?;
                state.join("queue").join(queue_name(&target.url, &cache.cache))
            }
        };
        open_queue(&dir, &url)
    }
}

/// The queue in a folder for the cache with that URL.
pub fn open_queue(dir: &Path, url: &str) -> Result<Queue, Failure> {
    Queue::open(dir, url).context(|| "cannot use the queue".to_owned())
}

impl Watching {
    /// Which server.
    pub fn remote(&self) -> &RemoteArgs {
        &self.how.remote
    }

    /// How long to go on at the end.
    pub fn flush_timeout(&self) -> Duration {
        self.flush_timeout
    }

    /// Begins to watch the store, if it is wanted, and to push what the queue holds.
    pub async fn start(
        self,
        cache: &CacheRef,
        drain: Drain,
        from_store: Option<Start>,
    ) -> Result<Running, Failure> {
        let store = Arc::new(self.how.open_store()?);
        // What cannot work at all is better told now.
        self.how.remote.cache_now(cache)?;
        let along = self.selection.along();
        let options =
            PusherOptions { plan: self.how.plan_options(), push: self.how.push_options(), along };
        let wants: Wants = Arc::new(move |path| self.selection.wants(path));
        let watched = match from_store {
            Some(from) => {
                let options = WatchOptions {
                    poll_interval: self.poll_interval,
                    derivations: along != Along::Nothing,
                    all: from == Start::Everything,
                    resume: from != Start::Afresh,
                };
                Some(watch_store(&store, drain.queue(), &wants, options).await?)
            }
            None => None,
        };
        let (cache, remote) = (cache.clone(), self.how.remote);
        let connect = Box::new(move || remote.cache_now(&cache).map_err(|failure| failure.text()));
        let queue = drain.queue().clone();
        let mut pusher = Pusher::new(drain, store, connect, wants, options);
        let (flush, until) = watch::channel(None);
        let pushing = tokio::spawn(async move {
            let ended = pusher.run(until).await;
            (ended, pusher.tally())
        });
        Ok(Running { queue, watched, pushing, flush, flush_timeout: self.flush_timeout })
    }
}

/// Which paths of the store are pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// What becomes valid from now on.
    Afresh,
    /// And what did since this queue's last watcher.
    Resume,
    /// All of them.
    Everything,
}

struct Watched {
    stop: oneshot::Sender<()>,
    task: JoinHandle<StoreWatcher>,
}

async fn watch_store(
    store: &Arc<LocalStore>,
    queue: &Queue,
    wants: &Wants,
    options: WatchOptions,
) -> Result<Watched, Failure> {
    let watcher = StoreWatcher::start(store.clone(), queue.clone(), wants.clone(), options).await;
    let mut watcher = watcher.context(|| "cannot watch the store".to_owned())?;
    tracing::info!("watching {}, asking {}", store.real_dir().display(), store.describe());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        // Whether told or dropped, it is the end.
        let stopped = async { drop(stopped.await) };
        watcher.run(stopped).await;
        watcher
    });
    Ok(Watched { stop, task })
}

/// A watcher and a pusher at work.
pub struct Running {
    queue: Queue,
    watched: Option<Watched>,
    pushing: JoinHandle<(Ended, Tally)>,
    flush: watch::Sender<Option<Instant>>,
    flush_timeout: Duration,
}

impl Running {
    /// Waits for what must not happen: that one of the two ends.
    pub async fn broken(&mut self) -> Failure {
        let pushing = &mut self.pushing;
        match &mut self.watched {
            Some(watched) => tokio::select! {
                ended = &mut watched.task => broken(ended.err()),
                ended = pushing => broken(ended.err()),
            },
            None => broken(pushing.await.err()),
        }
    }

    /// Looks a last time, and pushes what waits as long as there is time for it.
    pub async fn finish(self) -> Result<(Ended, Tally), Failure> {
        let until = Instant::now() + self.flush_timeout;
        let mut looked = Ok(());
        if let Some(Watched { stop, task }) = self.watched {
            // It listens, or has ended.
            let _ = stop.send(());
            let watcher = task.await.map_err(|error| broken(Some(error)))?;
            looked = watcher.finish().context(|| "cannot take a last look at the store".to_owned());
        }
        self.flush.send_replace(Some(until));
        let ended = self.pushing.await.map_err(|error| broken(Some(error)))?;
        looked.map(|()| ended)
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

fn broken(error: Option<JoinError>) -> Failure {
    match error {
        Some(error) => Failure::new(format!("a worker ended unexpectedly: {error}")),
        None => Failure::new("a worker ended unexpectedly"),
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on they do not end the process.
    pub fn new() -> Result<Self, Failure> {
        let both = || -> io::Result<Self> {
            let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            Ok(Self { term, int })
        };
        both().context(|| "cannot wait for signals".to_owned())
    }

    /// Waits for one of them.
    pub async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.term.recv() => SignalKind::terminate(),
            _ = self.int.recv() => SignalKind::interrupt(),
        }
    }
}

/// A runtime with threads, on which the store may be asked.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context(|| "cannot start threads".to_owned())
}
