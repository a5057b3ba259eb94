//! `granary watch-store`

use clap::Args;
use granary_client::config::CacheRef;
use granary_client::watch::Ended;

use crate::failure::{Context, Failure};
use crate::logging;
use crate::sd_notify::notify;
use crate::watching::{QueueArgs, Running, Signals, Start, Watching, runtime};

/// Options of `granary watch-store`.
#[derive(Args)]
pub struct WatchStore {
    /// Cache to push to: `cache`, `server:cache` or `https://host/cache`
    cache: CacheRef,
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    queue: QueueArgs,
    /// Push also what is in the store already
    #[arg(long)]
    all: bool,
    /// Do not watch the store: push only what granary queue add brings
    #[arg(long, conflicts_with = "all")]
    no_store: bool,
}

impl WatchStore {
    /// Watches until SIGTERM or SIGINT.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let queue = self.queue.open(self.watching.remote(), &self.cache)?;
        let drain = queue.drain().context(|| "cannot push".to_owned())?;
        let from = match (self.no_store, self.all) {
            (true, _) => None,
            (_, true) => Some(Start::Everything),
            _ => Some(Start::Resume),
        };
        let seconds = self.watching.flush_timeout().as_secs();
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let mut signals = Signals::new()?;
            let mut running = self.watching.start(&self.cache, drain, from).await?;
            tracing::info!("pushing to {}, queue in {}", self.cache, queue.dir().display());
            notify("READY=1");
            tokio::select! {
                _ = signals.next() => {}
                failure = running.broken() => return Err(failure),
            }
            notify("STOPPING=1");
            tracing::info!(
                "stopping: pushing what waits, for {seconds} s at most; a second signal ends at once"
            );
            end(running, &mut signals).await
        });
        // What is cut off is in the queue.
        runtime.shutdown_background();
        result
    }
}

async fn end(running: Running, signals: &mut Signals) -> Result<(), Failure> {
    let queue = running.queue().clone();
    tokio::select! {
        ended = running.finish() => match ended? {
            (Ended::Empty, tally) => tracing::info!("stopped: {} pushed", tally.published),
            (Ended::Left, tally) => tracing::warn!(
                "stopped: {} pushed; what is left stays in {}",
                tally.published,
                queue.dir().display()
            ),
        },
        _ = signals.next() => {
            let dir = queue.dir().display();
            return Err(Failure::new(format!("stopped at once: what is left stays in {dir}")));
        }
    }
    Ok(())
}
