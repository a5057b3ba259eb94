//! `granary mount`

mod background;
mod fstab;
mod shown;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use granary_fuse::MountOptions;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use fstab::arguments;
pub use shown::{Fixed, Shown};

use crate::failure::{Context, Failure};
use crate::lazy_cache::LazyArgs;
use crate::limits::raise_file_limit;
use crate::{logging, sd_notify};

/// Options of `granary mount`.
#[derive(Args)]
pub struct Mount {
    /// Cache: `cache`, `server:cache`, `https://host/cache`, or the URL of any binary cache
    cache: String,
    /// Where its store paths are to appear; for programs in them to run, /nix/store
    mountpoint: PathBuf,
    #[command(flatten)]
    lazy: LazyArgs,
    #[command(flatten)]
    how: HowToMount,
    /// Stay in the foreground, and tell systemd when the mount is ready
    #[arg(long)]
    foreground: bool,
    /// Log to this file when in the background [default: one for the mountpoint in the cache folder]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Say on stdout when the mount is ready
    #[arg(long, hide = true, requires = "foreground")]
    tell_ready: bool,
    #[command(flatten)]
    from_mount: fstab::FromMount,
}

/// How a mount is made.
#[derive(Args)]
pub struct HowToMount {
    /// Let other users in; so for root unless --private
    #[arg(long)]
    allow_other: bool,
    /// Let nobody else in, and nobody else ask on the socket
    #[arg(long, conflicts_with = "allow_other")]
    private: bool,
    /// Give whole files to the kernel: for work on large ones; needs root and Linux 6.9
    #[arg(long)]
    passthrough: bool,
    /// Do not list the paths; they are there by name
    #[arg(long)]
    pub by_name: bool,
    /// Show only the paths that there are at the beginning
    #[arg(long)]
    pub fixed: bool,
    /// Answer Nix on this socket, as its daemon would
    #[arg(long, value_name = "SOCKET")]
    pub socket: Option<PathBuf>,
}

impl HowToMount {
    fn options(&self) -> MountOptions {
        MountOptions {
            allow_other: self.allow_other
                || (!self.private && rustix::process::geteuid().is_root()),
            passthrough: self.passthrough,
            list: !self.by_name,
            ..MountOptions::default()
        }
    }
}

impl Mount {
    /// Mounts, and in the foreground stays until the mount ends.
    pub fn run(self) -> Result<(), Failure> {
        if self.from_mount.fake {
            return Ok(());
        }
        if !self.foreground {
            let log = match &self.log {
                Some(log) => log.clone(),
                None => self.lazy.cache_dir()?.join(log_name(&self.mountpoint)),
            };
            return background::start(&log, &self.cache);
        }
        logging::start();
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        runtime.block_on(self.stay(runtime.handle()))?;
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }

    async fn stay(self, runtime: &Handle) -> Result<(), Failure> {
        let Self { cache, mountpoint, lazy, how, .. } = &self;
        let fixed = if how.fixed { Fixed::Yes } else { Fixed::No };
        let socket = how.socket.as_deref();
        // From here on, so that no signal leaves a mount behind.
        let mut signals = Signals::new()?;
        let shown = tokio::select! {
            shown = Shown::new(cache, lazy, how, fixed, mountpoint, socket, runtime) => shown?,
            () = signals.stop() => return Err(Failure::new("stopped before it was mounted")),
        };
        tracing::info!("{cache} is at {}", mountpoint.display());
        // The mount is not to hold on to where it was started from.
        let _ = env::set_current_dir("/");
        sd_notify::notify("READY=1");
        if self.tell_ready {
            let mut out = io::stdout();
            let told = writeln!(out, "{}", background::READY).and_then(|()| out.flush());
            told.context(|| "whoever started the mount does not wait for it any more".to_owned())?;
        }
        wait(&shown, &mut signals).await;
        sd_notify::notify("STOPPING=1");
        shown.end().await;
        Ok(())
    }
}

/// The log of a mount in the background, by where it is.
fn log_name(mountpoint: &Path) -> String {
    let place = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    let place = place.to_string_lossy();
    format!("mount-{}.log", place.trim_matches('/').replace('/', "-"))
}

/// What a person or a service manager says.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context(|| "cannot wait for signals".to_owned());
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits until it is time to stop.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.interrupt.recv() => return,
                // The terminal it was started from is gone; the mount stays.
                _ = self.hangup.recv() => {}
            }
        }
    }
}

/// Waits for the end of the mount or of the process, telling now and then what was touched.
async fn wait(shown: &Shown, signals: &mut Signals) {
    let mut ended = std::pin::pin!(shown.ended());
    let mut telling = std::pin::pin!(shown.tell_profiles());
    tokio::select! {
        () = &mut ended => {}
        () = signals.stop() => {}
        never = &mut telling => match never {},
    }
}
