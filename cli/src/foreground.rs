//! Running a command in one's own place: signals go to it, and its end is one's own.

use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::failure::{Context, Failure};
use crate::output::warn;
use crate::watching::Signals;

/// What shells say of a command that is not there, and of one that cannot be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;
/// What shells add to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;
/// How often to look whether the command has ended, should SIGCHLD get lost.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the command. If it cannot be run, says what a shell would.
pub fn start(command: &mut Command) -> Result<Child, ExitCode> {
    command.spawn().map_err(|error| {
        let not_found = error.kind() == io::ErrorKind::NotFound;
        warn(&format!("cannot run {}: {error}", command.get_program().display()));
        ExitCode::from(if not_found { NOT_FOUND } else { CANNOT_RUN })
    })
}

/// Waits for its end, and passes signals on to it. If it goes on for longer than `grace` after
/// SIGTERM, it is killed.
pub async fn wait(
    mut child: Child,
    signals: &mut Signals,
    grace: Option<Duration>,
) -> Result<ExitStatus, Failure> {
    let context = || "cannot wait for the command".to_owned();
    let mut ended = signal(SignalKind::child()).context(context)?;
    let mut hangup = signal(SignalKind::hangup()).context(context)?;
    let mut quit = signal(SignalKind::quit()).context(context)?;
    // A terminal sends Ctrl-C to everybody.
    let from_terminal = io::stdin().is_terminal();
    let mut last = None;
    loop {
        if let Some(status) = child.try_wait().context(context)? {
            return Ok(status);
        }
        tokio::select! {
            _ = ended.recv() => {}
            () = sleep(LOOK) => {}
            kind = signals.next() => {
                if kind == SignalKind::terminate() {
                    last = last.or(grace.map(|grace| Instant::now() + grace));
                    pass_on(&child, Signal::TERM);
                } else if !from_terminal {
                    pass_on(&child, Signal::INT);
                }
            }
            _ = hangup.recv() => pass_on(&child, Signal::HUP),
            _ = quit.recv() => if !from_terminal {
                pass_on(&child, Signal::QUIT);
            },
            () = at(last) => {
                last = None;
                pass_on(&child, Signal::KILL);
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The child has not been waited for, so its number is still its own.
fn pass_on(child: &Child, signal: Signal) {
    if let Err(error) = kill_process(Pid::from_child(child), signal) {
        tracing::warn!("cannot pass a signal on: {error}");
    }
}

/// What a shell would say of such an end.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| BY_SIGNAL + signal));
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What a shell would say of a command that this signal ended.
pub fn ended_by(kind: SignalKind) -> ExitCode {
    let code = u8::try_from(BY_SIGNAL + kind.as_raw_value());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
