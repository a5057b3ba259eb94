//! The socket on which Nix is answered, beside whatever else a command does.

use std::path::Path;
use std::sync::Arc;

use granary_daemon::{Daemon, Options};
use granary_lazy::View;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::failure::{Context, Failure};

/// A socket that is served.
pub struct NixSocket {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl NixSocket {
    /// Makes the socket and answers on it, everybody or the owner alone.
    pub fn start<V: View>(
        view: &Arc<V>,
        path: &Path,
        everybody: bool,
        runtime: &Handle,
    ) -> Result<Self, Failure> {
        let mode = if everybody { 0o666 } else { 0o600 };
        let options = Options { mode, ..Options::default() };
        let daemon = Daemon::new(view.clone(), runtime.clone(), options);
        // The process may change its folder.
        let path = std::path::absolute(path).context(|| "the socket".to_owned())?;
        let socket = daemon.listen(&path).context(|| "cannot answer Nix".to_owned())?;
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(async move {
            let stopped = async {
                // Nobody who could stop it is a reason to stop, too.
                let _ = stopped.await;
            };
            daemon.serve(socket, stopped).await;
        });
        Ok(Self { stop, served })
    }

    /// Stops answering; requests under way are finished.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.served.await;
    }
}
