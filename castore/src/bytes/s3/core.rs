//! What the packs of a backend share: the bucket, the pages, and the threads that talk to the server.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tokio::runtime::Runtime;

use super::bucket::Bucket;
use super::pages::Pages;
use crate::pack::PackId;

/// Shared by a backend and its packs.
pub struct Core {
    /// Of its own, so that callers may be any threads that wait, those of another runtime included.
    pub runtime: Option<Runtime>,
    pub bucket: Arc<Bucket>,
    pub pages: Arc<Pages>,
    pub spool: PathBuf,
}

/// Runs something on the runtime and waits for it here.
pub fn wait<T: Send + 'static>(
    runtime: Option<&Runtime>,
    work: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let closed = || io::Error::other("the object store's backend is closed");
    let (sender, receiver) = sync_channel(1);
    runtime.ok_or_else(closed)?.spawn(async move {
        // Nobody waits any more when their thread is gone.
        let _ = sender.send(work.await);
    });
    receiver.recv().map_err(|_| closed())?
}

impl Core {
    /// Runs something on the backend's own threads and waits for it here.
    pub fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> io::Result<T> {
        wait(self.runtime.as_ref(), work)
    }

    /// The file of a pack that grows.
    pub fn spooled(&self, id: PackId) -> PathBuf {
        self.spool.join(format!("{id}.open"))
    }

    /// Asks the server how long a pack is.
    pub fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        let (bucket, name) = (self.bucket.clone(), super::object_name(id));
        let len = self.wait(async move { Ok(bucket.head(&name).await?) })?;
        match len {
            Some(len) => self.pages.set_length(id, len),
            None => self.pages.unset_length(id),
        }
        Ok(len)
    }

    /// Says what was asked of the server so far.
    pub fn log_statistics(&self) {
        tracing::debug!(statistics = ?self.bucket.counters.snapshot(), "object store");
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.log_statistics();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
