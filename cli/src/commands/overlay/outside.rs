//! The process that was started: has the namespace made, passes signals on, and cleans up after a
//! process inside that was killed.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{self, Command, ExitCode};

use rustix::process::geteuid;

use super::orphans::Orphans;
use super::scratch;
use crate::failure::{Context, Failure};
use crate::foreground;
use crate::watching::Signals;

/// What the process inside makes when it has begun.
pub const BEGUN: &str = "begun";

/// What is needed for a mount namespace.
const NEEDED: &str = "cannot make a private mount namespace: it needs root (CAP_SYS_ADMIN), or a \
                      kernel that lets users make user namespaces (user.max_user_namespaces above \
                      0, and on some systems kernel.unprivileged_userns_clone = 1 or \
                      kernel.apparmor_restrict_unprivileged_userns = 0)";

/// Starts the same command inside, and waits for its end.
pub fn run() -> Result<ExitCode, Failure> {
    let orphans = Orphans::adopt()?;
    // Nothing here has to run beside anything else; and the thread that starts the process inside
    // has to last, for its end is what that process is told of.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot wait for signals".to_owned())?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let context = || "cannot make a folder for the mounts: set TMPDIR".to_owned();
        let temporary = tempfile::Builder::new().prefix("granary-overlay-").tempdir();
        // It is removed below, whatever is in it.
        let dir = temporary.context(context)?.keep();
        let dir = fs::canonicalize(dir).context(context)?;
        let started = command(&dir).and_then(|mut command| {
            command.spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::new("cannot run unshare: install util-linux"),
                _ => Failure::new(format!("cannot run unshare: {error}")),
            })
        });
        let status = match started {
            Ok(child) => foreground::wait(child, &mut signals, None).await,
            Err(failure) => Err(failure),
        };
        // The process inside has removed the folder, if it could.
        let begun = !dir.exists() || dir.join(BEGUN).exists();
        orphans.end();
        scratch::remove(&dir);
        match status? {
            status if begun || status.success() => Ok(foreground::exit_code(status)),
            _ => Err(Failure::new(NEEDED)),
        }
    })
}

/// The same command, in namespaces of its own.
fn command(dir: &Path) -> Result<Command, Failure> {
    let context = || "cannot start the process inside".to_owned();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let program = env::current_exe().context(context)?;
    let mut arguments = env::args_os().skip(1);
    command.arg("--").arg(program).args(arguments.next());
    command.arg("--inside").arg(dir).arg("--outside").arg(process::id().to_string());
    command.args(arguments);
    Ok(command)
}
