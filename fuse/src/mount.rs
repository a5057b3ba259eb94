//! A mount's life: made, served by threads of its own, and ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackingId, Config, Session, SessionACL};
use granary_lazy::View;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::device;
use crate::error::MountError;
use crate::filesystem::{Filesystem, NO_PASSTHROUGH, OLD_KERNEL};
use crate::mountpoint;
use crate::push::Pusher;
use crate::server::{Channel, Server};
use crate::statistics::{Counters, Statistics};
use crate::table::Table;

/// How a view is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Let users other than the one who mounts in. A mount below which others work, an overlay
    /// among them, needs it; who is not root also needs `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// Let the kernel read large files from the local cache by itself. An open then fetches the
    /// whole file. Needs root and Linux 6.9.
    pub passthrough: bool,
    /// List the paths at the top level, if the view can. Otherwise they are there by name alone.
    pub list: bool,
    /// Give the kernel small files before it asks, once a file beside them was read.
    pub push_small_files: bool,
    /// Threads that answer. They do not wait for the network, so a few are enough.
    pub threads: usize,
    /// How far the kernel reads ahead, in KiB, where it may be told. It is also how much a page
    /// fault in a mapped file asks for.
    pub read_ahead_kib: u32,
}

impl Default for MountOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            allow_other: false,
            passthrough: false,
            list: true,
            push_small_files: true,
            threads: cores.clamp(2, 8),
            read_ahead_kib: 1024,
        }
    }
}

/// A mounted view. Dropping it detaches the mount.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    ended: watch::Receiver<bool>,
    table: Arc<Table>,
    counters: Arc<Counters>,
}

impl Mount {
    /// Mounts a view. What has to be waited for is waited for on `runtime`.
    pub fn new<V: View>(
        view: Arc<V>,
        mountpoint: &Path,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let mountpoint = mountpoint::check(mountpoint)?;
        let source = mountpoint::source_name(view.name());
        let device = device::mount(&mountpoint, &source, options.allow_other)?;
        // From here on whatever fails has to take the mount away.
        let mount = Self::serve(view, &mountpoint, device, options, runtime);
        if mount.is_err()
            && let Err(error) = mountpoint::unmount(&mountpoint, true)
        {
            tracing::warn!(%error, "a mount that failed was left behind");
        }
        mount
    }

    fn serve<V: View>(
        view: Arc<V>,
        mountpoint: &Path,
        device: OwnedFd,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        let server = Arc::new(Server::new(view, runtime, options));
        let failed = |source| failed(mountpoint, source);
        let filesystem = Filesystem(server.clone());
        let session = Session::from_fd(filesystem, device, acl, config).map_err(failed)?;
        if server.options.passthrough {
            check_passthrough(&session)?;
        }
        let device = session.as_fd().try_clone_to_owned().map_err(failed)?;
        let notifier = session.notifier();
        let pusher = match server.options.push_small_files {
            true => {
                let (view, table) = (server.view.clone(), server.table.clone());
                let counters = server.counters.clone();
                Some(Pusher::start(view, table, counters, notifier.clone()).map_err(failed)?)
            }
            false => None,
        };
        server.connect(Channel { device: File::from(device), notifier, pusher });
        let read_ahead = server.options.read_ahead_kib;
        let (table, counters) = (server.table.clone(), server.counters.clone());
        drop(server);
        let ended = run(session).map_err(failed)?;
        if let Some(mounted) = mountpoint::mounted_at(mountpoint) {
            mountpoint::set_read_ahead(&mounted, read_ahead);
        }
        Ok(Self { mountpoint: mountpoint.to_owned(), ended, table, counters })
    }

    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// What it was asked so far.
    pub fn statistics(&self) -> Statistics {
        self.counters.read(self.table.len() as u64)
    }

    /// Waits until it is unmounted, by whomever.
    pub async fn ended(&self) {
        // An error says that the thread is gone, and the mount with it.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Unmounts it, unless it is in use.
    pub fn unmount(&self) -> Result<(), MountError> {
        mountpoint::unmount(&self.mountpoint, false)
    }

    fn has_ended(&self) -> bool {
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        match mountpoint::unmount(&self.mountpoint, true) {
            Ok(()) | Err(MountError::NotMounted(_)) => {}
            Err(error) => tracing::warn!(%error, "the mount was left behind"),
        }
    }
}

fn failed(mountpoint: &Path, source: io::Error) -> MountError {
    match (source.kind(), source.to_string().as_str()) {
        (io::ErrorKind::Unsupported, OLD_KERNEL) => MountError::OldKernel,
        (io::ErrorKind::Unsupported, NO_PASSTHROUGH) => MountError::NoPassthrough,
        _ => MountError::Mount { path: mountpoint.to_owned(), source },
    }
}

/// Asks the kernel to pass reads through to what is no plain file: who may not use passthrough is
/// told so first.
fn check_passthrough<V: View>(session: &Session<Filesystem<V>>) -> Result<(), MountError> {
    let Ok(null) = File::open("/dev/null") else { return Ok(()) };
    match BackingId::create_raw(session, &null) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(MountError::PassthroughRefused)
        }
        _ => Ok(()),
    }
}

/// Serves until the mount ends; then the channel turns true.
fn run<V: View>(session: Session<Filesystem<V>>) -> io::Result<watch::Receiver<bool>> {
    let (sender, ended) = watch::channel(false);
    std::thread::Builder::new().name("granary-mount".into()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::error!(%error, "the mount has failed");
        }
        sender.send_replace(true);
    })?;
    Ok(ended)
}
