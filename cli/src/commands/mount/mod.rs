//! `granary mount`

mod background;
mod fstab;
mod shown;

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use granary_fuse::MountOptions;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

pub use fstab::arguments;
pub use shown::{Fixed, Shown};

use crate::failure::{Context, Failure};
use crate::lazy_cache::LazyArgs;
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
    /// Log to this file when in the background [default: mount.log in the cache folder]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Options as fstab has them: those above without `--`, with commas between
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Say on stdout when the mount is ready
    #[arg(long, hide = true, requires = "foreground")]
    tell_ready: bool,
    #[command(flatten)]
    from_mount: fstab::FromMount,
}

/// How a mount is made.
#[derive(Args)]
pub struct HowToMount {
    /// Let other users in; always so for root
    #[arg(long)]
    allow_other: bool,
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
            allow_other: self.allow_other || rustix::process::geteuid().is_root(),
            passthrough: self.passthrough,
            list: !self.by_name,
            ..MountOptions::default()
        }
    }
}

impl Mount {
    /// Mounts, and in the foreground stays until the mount ends.
    pub fn run(self) -> Result<(), Failure> {
        let mount = self.with_fstab_options()?;
        if mount.from_mount.fake {
            return Ok(());
        }
        if !mount.foreground {
            let log = match &mount.log {
                Some(log) => log.clone(),
                None => mount.lazy.cache_dir()?.join("mount.log"),
            };
            return background::start(&log);
        }
        logging::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        runtime.block_on(mount.stay(runtime.handle()))?;
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }

    async fn stay(self, runtime: &Handle) -> Result<(), Failure> {
        let Self { cache, mountpoint, lazy, how, .. } = &self;
        let fixed = if how.fixed { Fixed::Yes } else { Fixed::No };
        let socket = how.socket.as_deref();
        let shown = Shown::new(cache, lazy, how, fixed, mountpoint, socket, runtime).await?;
        tracing::info!("{cache} is at {}", mountpoint.display());
        // The mount is not to hold on to where it was started from.
        let _ = env::set_current_dir("/");
        sd_notify::notify("READY=1");
        if self.tell_ready {
            // Whoever started this is gone if it does not arrive.
            let mut out = io::stdout();
            let _ = writeln!(out, "{}", background::READY).and_then(|()| out.flush());
        }
        wait(&shown).await?;
        sd_notify::notify("STOPPING=1");
        shown.end().await;
        Ok(())
    }
}

/// Waits for the end of the mount or of the process, telling now and then what was touched.
async fn wait(shown: &Shown) -> Result<(), Failure> {
    let context = || "cannot wait for signals".to_owned();
    let mut term = signal(SignalKind::terminate()).context(context)?;
    let mut hangup = signal(SignalKind::hangup()).context(context)?;
    let mut ended = std::pin::pin!(shown.ended());
    let mut telling = std::pin::pin!(shown.tell_profiles());
    loop {
        tokio::select! {
            () = &mut ended => return Ok(()),
            _ = term.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
            // The terminal it was started from is gone; the mount stays.
            _ = hangup.recv() => {}
            never = &mut telling => match never {},
        }
    }
}
