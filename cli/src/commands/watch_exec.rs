//! `granary watch-exec`

use std::ffi::OsString;
use std::process::{Command, ExitCode, ExitStatus};

use clap::Args;
use granary_client::config::CacheRef;
use granary_client::watch::{Ended, Queue, Tally};

use crate::failure::{Context, Failure};
use crate::output::warn;
use crate::watching::{Signals, Start, Watching, open_queue, runtime};
use crate::{foreground, logging};

/// Options of `granary watch-exec`.
#[derive(Args)]
pub struct WatchExec {
    /// Cache to push to: `cache`, `server:cache` or `https://host/cache`
    cache: CacheRef,
    #[command(flatten)]
    watching: Watching,
    /// Fail if the command went well, but a path could not be pushed
    #[arg(long)]
    strict: bool,
    /// Command to run
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl WatchExec {
    /// Runs the command, and says how it ended.
    pub fn run(self) -> Result<ExitCode, Failure> {
        logging::start();
        let context = || "cannot make a folder for the queue".to_owned();
        // Nobody else needs to know of this queue, and it ends with the command.
        let dir = tempfile::Builder::new().prefix("granary-watch-exec-").tempdir();
        let dir = dir.context(context)?;
        let target = self.watching.remote().target_of(&self.cache)?;
        let url = target.url.join(&format!("/{}", self.cache.cache));
        let queue = open_queue(&dir.path().join("queue"), &url)?;
        let drain = queue.drain().context(context)?;
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let mut signals = Signals::new()?;
            let running = self.watching.start(&self.cache, drain, Some(Start::Afresh)).await?;
            let Some((program, arguments)) = self.command.split_first() else {
                return Err(Failure::new("no command is given"));
            };
            let child = match foreground::start(Command::new(program).args(arguments)) {
                Ok(child) => child,
                Err(code) => return Ok(code),
            };
            let status = foreground::wait(child, &mut signals, None).await?;
            let ended = tokio::select! {
                ended = running.finish() => ended,
                _ = signals.next() => Err(Failure::new("stopped at once")),
            };
            let pushed = tell(ended, &queue);
            Ok(exit_code(status, pushed || !self.strict))
        });
        runtime.shutdown_background();
        result
    }
}

/// Says what became of the push; whether all went well.
fn tell(ended: Result<(Ended, Tally), Failure>, queue: &Queue) -> bool {
    let ended = match ended {
        Ok((ended, tally)) => {
            tracing::info!("{} pushed", tally.published);
            ended
        }
        Err(failure) => {
            failure.report();
            Ended::Left
        }
    };
    let waiting = queue.waiting(usize::MAX).map_or(0, |(paths, _)| paths.len());
    let failed = queue.failed().map_or(0, |failed| failed.len());
    match waiting + failed {
        0 => {}
        1 => warn("1 path was not pushed"),
        n => warn(&format!("{n} paths were not pushed")),
    }
    ended == Ended::Empty && waiting + failed == 0
}

fn exit_code(status: ExitStatus, pushed: bool) -> ExitCode {
    match status.success() && !pushed {
        true => ExitCode::FAILURE,
        false => foreground::exit_code(status),
    }
}
