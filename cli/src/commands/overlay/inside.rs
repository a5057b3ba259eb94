//! The process inside: mounts where nobody else sees it, runs the command, and takes all away.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use granary_lazy::View;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::runtime::Handle;

use super::layer::{Layer, Place};
use super::nix::{Inside, warn_if_old};
use super::orphans::Orphans;
use super::{Overlay, mounts, outside, scratch};
use crate::commands::mount::{Fixed, Shown};
use crate::failure::{Context, Failure};
use crate::watching::{Signals, runtime};
use crate::{foreground, logging};

/// How long the command may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Mounts, runs the command, and removes the folder of the overlay.
pub fn run(overlay: Overlay, dir: &Path, outside: i32) -> Result<ExitCode, Failure> {
    logging::start();
    let told = set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from);
    told.context(|| "cannot watch the process outside".to_owned())?;
    if getppid() != Pid::from_raw(outside) {
        // It had ended before.
        scratch::remove(dir);
        return Ok(ExitCode::FAILURE);
    }
    let orphans = Orphans::adopt()?;
    let context = || format!("cannot write to {}", dir.display());
    File::create(dir.join(outside::BEGUN)).context(context)?;
    let runtime = runtime()?;
    let result = runtime.block_on(overlay.stay(dir, &orphans, runtime.handle()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    scratch::remove(dir);
    result
}

impl Overlay {
    async fn stay(
        self,
        dir: &Path,
        orphans: &Orphans,
        runtime: &Handle,
    ) -> Result<ExitCode, Failure> {
        let mut signals = Signals::new()?;
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::new("no command is given"));
        };
        let cache = dir.join("cache");
        fs::create_dir(&cache).context(|| format!("cannot write to {}", dir.display()))?;
        // Overlayfs goes on believing that a name is not there. A path that comes to the cache later
        // would be valid, and without files.
        let fixed = match (self.how.fixed, self.how.by_name) {
            (true, _) => Fixed::Yes,
            (false, true) => Fixed::No,
            (false, false) => Fixed::IfListed,
        };
        let socket = self.how.socket.clone().unwrap_or_else(|| dir.join("socket"));
        let Self { cache: name, lazy, how, .. } = &self;
        let shown = Shown::new(name, lazy, how, fixed, &cache, Some(&socket), runtime);
        let shown = tokio::select! {
            shown = shown => shown?,
            kind = signals.next() => return Ok(foreground::ended_by(kind)),
        };
        let store_dir = shown.store().store_dir().to_string();
        let place = self.layer.place(dir);
        let memory = match &place {
            Place::Memory(dir) => Some(mounts::memory(dir)?),
            _ => None,
        };
        let layer = Layer::open(&place, shown.store().name(), &store_dir)?;
        let hidden = hidden(program.as_ref(), Path::new(&store_dir));
        let mut lower = vec![&*cache];
        if self.host_store && Path::new(&store_dir).is_dir() {
            lower.push(Path::new(&store_dir));
        }
        let more_below = lower.len() > 1;
        let (upper, work) = (layer.part("upper"), layer.part("work"));
        let merged = mounts::overlay(&lower, &upper, &work, Path::new(&store_dir))?;
        if let Some(hidden) = hidden.filter(|program| !program.exists()) {
            let what = "is in this machine's own store, and not in the cache: use --host-store";
            return Err(Failure::new(format!("{} {what}", hidden.display())));
        }
        warn_if_old();
        let inside = Inside {
            store_dir: &store_dir,
            cache: &cache,
            socket: &socket,
            layer: &layer,
            more_below,
        };
        let mut command = Command::new(program);
        inside.tell(command.args(arguments));
        let code = match foreground::start(&mut command) {
            Err(code) => Ok(code),
            Ok(child) => tokio::select! {
                status = foreground::wait(child, &mut signals, Some(GRACE)) => {
                    status.map(foreground::exit_code)
                }
                () = shown.ended() => Err(Failure::new("the mount has ended, and so does the command")),
                never = shown.tell_profiles() => match never {},
            },
        };
        orphans.end();
        drop(merged);
        shown.end().await;
        drop((layer, memory));
        code
    }
}

/// The program, if it lies in the store that the overlay is going to hide.
fn hidden(program: &Path, store_dir: &Path) -> Option<PathBuf> {
    let found = match program.components().count() {
        1 => {
            let path = env::var_os("PATH")?;
            env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())?
        }
        _ => program.to_owned(),
    };
    fs::canonicalize(found).ok().filter(|program| program.starts_with(store_dir))
}
