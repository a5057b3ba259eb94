//! `granary daemon`

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Context, Failure};
use crate::lazy_cache::LazyArgs;
use crate::limits::raise_file_limit;
use crate::nix_socket::NixSocket;
use crate::{logging, sd_notify};

/// Where a mount says what it shows.
const SOURCE: &str = "user.granary.source";

/// Options of `granary daemon`.
#[derive(Args)]
pub struct Daemon {
    /// Socket to answer on
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// Where the cache is mounted
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: PathBuf,
    /// Answer other users, too
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    lazy: LazyArgs,
}

impl Daemon {
    /// Answers until SIGTERM or SIGINT.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        raise_file_limit();
        let cache = self.mounted()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        let handle = runtime.handle().clone();
        runtime.block_on(async {
            let store = Arc::new(self.lazy.open(&cache).await?);
            let socket = NixSocket::start(&store, &self.socket, self.allow_other, &handle)?;
            tracing::info!("answering for {cache} on {}", self.socket.display());
            sd_notify::notify("READY=1");
            let context = || "cannot wait for signals".to_owned();
            let mut term = signal(SignalKind::terminate()).context(context)?;
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            sd_notify::notify("STOPPING=1");
            socket.stop().await;
            Ok(())
        })?;
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }

    /// The cache that is mounted.
    fn mounted(&self) -> Result<String, Failure> {
        if !granary_fuse::is_mounted(&self.mount) {
            let place = self.mount.display();
            return Err(Failure::new(format!("{place} is no mount of granary mount")));
        }
        let mut value = vec![0; 4096];
        let length = rustix::fs::getxattr(&self.mount, SOURCE, &mut value[..]);
        let length = length
            .map_err(io::Error::from)
            .context(|| format!("{} is no mount of granary mount", self.mount.display()))?;
        let cache = String::from_utf8_lossy(&value[..length]).into_owned();
        if cache.starts_with('/') {
            let why = "a mount of a data directory has it to itself: start it with --socket";
            return Err(Failure::new(why));
        }
        Ok(cache)
    }
}
