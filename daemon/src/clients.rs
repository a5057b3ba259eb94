//! Who is connected.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// The connections that are open, so that they can be ended.
#[derive(Debug)]
pub struct Clients {
    open: Mutex<HashMap<u64, Arc<UnixStream>>>,
    count: watch::Sender<usize>,
}

/// A connection's place among them, given up when dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    number: u64,
    /// How many there are with this one.
    pub count: usize,
}

impl Clients {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// Takes a place. Numbers are not given twice.
    pub fn enter(self: &Arc<Self>, number: u64, stream: &Arc<UnixStream>) -> Place {
        let mut open = self.open();
        open.insert(number, Arc::clone(stream));
        let count = open.len();
        self.count.send_replace(count);
        Place { clients: Arc::clone(self), number, count }
    }

    /// Lets each finish what it is doing, or not even that.
    pub fn end(&self, how: Shutdown) {
        // One that is gone already is no loss.
        self.open().values().for_each(|stream| drop(stream.shutdown(how)));
    }

    /// Waits until all have left; `false` if some are still there after that long.
    pub async fn left(&self, within: Duration) -> bool {
        let mut count = self.count.subscribe();
        tokio::time::timeout(within, count.wait_for(|count| *count == 0)).await.is_ok()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<UnixStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        open.remove(&self.number);
        self.clients.count.send_replace(open.len());
    }
}
