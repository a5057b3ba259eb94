//! Taking clients in, and sending them home.

use std::fmt;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_lazy::View;
use tokio::runtime::Handle;

use crate::answers::Answers;
use crate::clients::{Clients, Place};
use crate::connection;
use crate::socket::{ListenError, Socket};

/// Connections beyond the bound that are open at once only to be told so.
const TURNED_AWAY: usize = 16;

/// The stack of a client's thread. The parser is flat, and what the view does runs here as well.
const STACK: usize = 1024 * 1024;

/// How long a pause is made when a connection cannot be accepted: file descriptors have run out, and
/// asking again at once would find none either.
const PAUSE: Duration = Duration::from_millis(100);

/// What a person may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The socket's permissions, 0600 unless said otherwise: who may connect may read all that the
    /// owner of the daemon may read of the cache.
    pub mode: u32,
    /// How many clients there are at once. Each has a thread and a file descriptor.
    pub clients: usize,
    /// How long the view may take for an answer.
    pub deadline: Duration,
    /// How long clients have to finish when the daemon is stopped.
    pub grace: Duration,
    /// Of how many paths the references are remembered, to tell who refers to whom. About 300 bytes
    /// each.
    pub referrers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mode: 0o600,
            clients: 128,
            deadline: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            referrers: 200_000,
        }
    }
}

/// A daemon for a view.
pub struct Daemon<V> {
    answers: Arc<Answers<V>>,
    clients: Arc<Clients>,
    runtime: Handle,
    options: Options,
    number: AtomicU64,
}

impl<V> fmt::Debug for Daemon<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<V: View> Daemon<V> {
    /// A daemon that asks the view on `runtime`, which must outlive [`Daemon::serve`] and have
    /// threads of its own.
    pub fn new(view: Arc<V>, runtime: Handle, options: Options) -> Self {
        Daemon {
            answers: Arc::new(Answers::new(
                view,
                runtime.clone(),
                options.deadline,
                options.referrers,
            )),
            clients: Clients::new(),
            runtime,
            options,
            number: AtomicU64::new(0),
        }
    }

    /// Makes the socket. Clients can connect from then on, and are answered once it is served.
    pub fn listen(&self, path: &Path) -> Result<Socket, ListenError> {
        let _runtime = self.runtime.enter();
        Socket::bind(path, self.options.mode)
    }

    /// Answers clients until `shutdown` comes. Then nobody is taken in any more, and those who wait
    /// for an answer get it if it comes in time. The socket is gone when this returns.
    pub async fn serve(self, socket: Socket, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = socket.accept() => match accepted {
                    Ok(stream) => self.take_in(stream),
                    Err(error) => {
                        tracing::warn!("cannot take in a client of {}: {error}", socket.path().display());
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        drop(socket);
        self.clients.end(Shutdown::Read);
        if !self.clients.left(self.options.grace).await {
            self.answers.stop();
            self.clients.end(Shutdown::Both);
            if !self.clients.left(self.options.grace).await {
                tracing::warn!("some clients of the daemon are still being answered");
            }
        }
        self.answers.stop();
    }

    fn take_in(&self, stream: UnixStream) {
        let stream = Arc::new(stream);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let place = self.clients.enter(number, &stream);
        let too_many = place.count.saturating_sub(self.options.clients);
        if too_many > 0 {
            tracing::warn!("turned away a client of the daemon: {} are connected", place.count - 1);
        }
        if too_many > TURNED_AWAY {
            return;
        }
        let (answers, clients) = (Arc::clone(&self.answers), self.options.clients);
        let serve = move |place: Place| {
            let ended = if too_many > 0 {
                let why =
                    format!("{clients} clients are connected to the daemon, and it takes no more");
                connection::turn_away(&stream, &answers, &why)
            } else {
                connection::serve(&stream, &answers)
            };
            match ended {
                Ok(()) => {}
                Err(error) if error.is_disconnect() => {
                    tracing::debug!("a client of the daemon left: {error}");
                }
                Err(error) => tracing::info!("a client of the daemon: {error}"),
            }
            drop(place);
        };
        let thread = std::thread::Builder::new().name("granary-client".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || serve(place)) {
            tracing::warn!("turned away a client of the daemon: no thread for it: {error}");
        }
    }
}
