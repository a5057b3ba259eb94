//! A cache that is mounted, with Nix answered for it if that is wanted.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use granary_fuse::Mount;
use granary_lazy::LazyStore;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::HowToMount;
use crate::failure::{Context, Failure};
use crate::lazy_cache::LazyArgs;
use crate::nix_socket::NixSocket;

/// What was touched is told this long after the mount began, so that even a short one helps the
/// next, and then at these intervals.
const FIRST_PROFILE: Duration = Duration::from_secs(5);
const PROFILE_EVERY: Duration = Duration::from_secs(60);
/// At the end nobody waits longer than this for it.
const LAST_PROFILE: Duration = Duration::from_secs(5);

/// At the end what is still open is answered for this long.
const LEAVE: Duration = Duration::from_secs(10);

/// Whether there are only the paths that there are at the beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// Those that come later are there, too.
    No,
    /// If the cache lists them.
    IfListed,
    /// A cache that does not list them is an error.
    Yes,
}

/// The mount and the socket. Dropping it detaches the mount.
pub struct Shown {
    store: Arc<LazyStore>,
    mounted: Mount,
    daemon: Option<NixSocket>,
}

impl Shown {
    /// Opens the cache, mounts it, and answers Nix on the socket.
    pub async fn new(
        cache: &str,
        lazy: &LazyArgs,
        how: &HowToMount,
        fixed: Fixed,
        mountpoint: &Path,
        socket: Option<&Path>,
        runtime: &Handle,
    ) -> Result<Self, Failure> {
        let store = Arc::new(lazy.open(cache).await?);
        if fixed != Fixed::No {
            let listed = store.fix().await.context(|| "cannot list the paths".to_owned())?;
            if !listed && fixed == Fixed::Yes {
                return Err(Failure::new("the cache does not list its paths: leave out --fixed"));
            }
        }
        let options = how.options();
        let everybody = options.allow_other;
        let mounted = Mount::new(store.clone(), mountpoint, options, runtime.clone());
        let mounted = mounted.context(|| format!("cannot mount {cache}"))?;
        let daemon = match socket {
            Some(socket) => Some(NixSocket::start(&store, socket, everybody, runtime)?),
            None => None,
        };
        Ok(Self { store, mounted, daemon })
    }

    /// What is mounted.
    pub fn store(&self) -> &LazyStore {
        &self.store
    }

    /// Waits until the mount is gone, whoever took it away.
    pub async fn ended(&self) {
        self.mounted.ended().await;
    }

    /// Tells now and then what was touched.
    pub async fn tell_profiles(&self) -> Infallible {
        let mut pause = FIRST_PROFILE;
        loop {
            sleep(pause).await;
            self.store.send_profiles().await;
            pause = PROFILE_EVERY;
        }
    }

    /// Answers what was asked, says what was fetched, and unmounts.
    pub async fn end(self) {
        if let Some(daemon) = self.daemon {
            daemon.stop().await;
        }
        let _ = timeout(LAST_PROFILE, self.store.send_profiles()).await;
        let statistics = self.store.statistics();
        tracing::info!(
            chunks = statistics.chunks,
            bytes = statistics.bytes,
            questions = statistics.questions,
            "unmounting {}",
            self.mounted.mountpoint().display()
        );
        // What is in use is taken away from the names, and answered for until it is closed.
        if self.mounted.unmount().is_err() {
            let _ = granary_fuse::unmount(self.mounted.mountpoint(), true);
        }
        let _ = timeout(LEAVE, self.mounted.ended()).await;
    }
}
