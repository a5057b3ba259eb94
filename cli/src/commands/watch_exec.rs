//! `granary watch-exec`

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use clap::Args;
use granary_client::config::CacheRef;
use granary_client::watch::{Ended, Queue, Tally};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::failure::{Context, Failure};
use crate::logging;
use crate::output::warn;
use crate::watching::{Signals, Start, Watching, open_queue, runtime};

/// What shells say of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;
/// What shells add to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;
/// How often to look whether the command has ended, should SIGCHLD get lost.
const LOOK: Duration = Duration::from_secs(1);

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
            let status = match execute(&self.command, &mut signals).await? {
                Ok(status) => status,
                Err(code) => return Ok(code),
            };
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

/// Runs the command and passes signals on to it. If it cannot be run, says what a shell would.
async fn execute(
    words: &[OsString],
    signals: &mut Signals,
) -> Result<Result<ExitStatus, ExitCode>, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::new("no command is given"));
    };
    let context = || format!("cannot wait for {}", program.display());
    let mut ended = signal(SignalKind::child()).context(context)?;
    let mut hangup = signal(SignalKind::hangup()).context(context)?;
    let mut child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            let not_found = error.kind() == io::ErrorKind::NotFound;
            let code = if not_found { NOT_FOUND } else { CANNOT_RUN };
            warn(&format!("cannot run {}: {error}", program.display()));
            return Ok(Err(ExitCode::from(code)));
        }
    };
    // A terminal sends Ctrl-C to everybody.
    let from_terminal = io::stdin().is_terminal();
    loop {
        if let Some(status) = child.try_wait().context(context)? {
            return Ok(Ok(status));
        }
        tokio::select! {
            _ = ended.recv() => {}
            () = sleep(LOOK) => {}
            kind = signals.next() => {
                if kind == SignalKind::terminate() {
                    pass_on(&child, Signal::TERM);
                } else if !from_terminal {
                    pass_on(&child, Signal::INT);
                }
            }
            _ = hangup.recv() => pass_on(&child, Signal::HUP),
        }
    }
}

/// The child has not been waited for, so its number is still its own.
fn pass_on(child: &Child, signal: Signal) {
    if let Err(error) = kill_process(Pid::from_child(child), signal) {
        tracing::warn!("cannot pass a signal on: {error}");
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
    let code = status.code().or(status.signal().map(|signal| BY_SIGNAL + signal));
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(0) if !pushed => ExitCode::FAILURE,
        Some(code) => ExitCode::from(code),
        None => ExitCode::FAILURE,
    }
}
