//! Taking paths out of the queue, a batch at a time.

use std::collections::HashSet;
use std::fs::File;

use castore::durable::sync_dir;
use granary_api::error::with_causes;
use nix_compat::store_path::StorePath;

use super::failed::{self, FailedPath};
use super::{Error, Queue, at, now};

/// The right to take paths out of a queue. One process has it.
#[derive(Debug)]
pub struct Drain {
    queue: Queue,
    /// Locked as long as it is open.
    _lock: File,
}

/// Paths to push next. As long as it is not settled, all of them are in the queue.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each once, oldest first.
    pub paths: Vec<StorePath>,
    entries: Vec<String>,
}

impl Batch {
    /// Whether there is nothing to push and nothing to take out.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.entries.is_empty()
    }
}

impl Drain {
    pub(super) fn new(queue: Queue, lock: File) -> Self {
        Self { queue, _lock: lock }
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The oldest entries, together about `limit` paths and at most one entry more.
    pub fn take(&self, limit: usize) -> Result<Batch, Error> {
        let (mut batch, mut known) = (Batch::default(), HashSet::new());
        for name in self.queue.oldest()?.0 {
            if batch.paths.len() >= limit {
                break;
            }
            let paths = match self.queue.read(&name) {
                Ok(Some(paths)) => paths,
                Ok(None) => continue,
                Err(error) => {
                    // One entry does not stop the others.
                    tracing::warn!("{}", with_causes(&error));
                    continue;
                }
            };
            batch.paths.extend(paths.into_iter().filter(|path| known.insert(path.clone())));
            batch.entries.push(name);
        }
        Ok(batch)
    }

    /// Paths that failed and are due to be tried again, at most `limit`. They are settled as a batch
    /// is.
    pub fn take_due(&self, limit: usize) -> Result<Batch, Error> {
        self.take_due_at(limit, now())
    }

    pub(super) fn take_due_at(&self, limit: usize, now: u64) -> Result<Batch, Error> {
        let due = |failed: &FailedPath| failed.next <= now;
        let failed = failed::list(&self.queue.dir)?.into_iter().filter(due).take(limit);
        Ok(Batch { paths: failed.map(|failed| failed.path).collect(), entries: Vec::new() })
    }

    /// Takes a batch out: all but `bad` are published, or no longer wanted. Returns what is known of
    /// the bad ones now.
    pub fn settle(
        &self,
        batch: Batch,
        bad: &[(StorePath, String)],
    ) -> Result<Vec<FailedPath>, Error> {
        self.settle_at(batch, bad, now())
    }

    pub(super) fn settle_at(
        &self,
        batch: Batch,
        bad: &[(StorePath, String)],
        now: u64,
    ) -> Result<Vec<FailedPath>, Error> {
        let dir = &self.queue.dir;
        let mut records = Vec::with_capacity(bad.len());
        for (path, reason) in bad {
            let record = FailedPath::again(path, failed::find(dir, path)?.as_ref(), reason, now);
            self.queue.write(&failed::path_of(dir, &record), &record.encode())?;
            records.push(record);
        }
        if !bad.is_empty() {
            let failed = dir.join("failed");
            at("sync", &failed, sync_dir(&failed))?;
        }
        let bad: HashSet<_> = bad.iter().map(|(path, _)| path).collect();
        for path in batch.paths.iter().filter(|path| !bad.contains(path)) {
            failed::forget(dir, path)?;
        }
        for name in &batch.entries {
            self.queue.remove(name)?;
        }
        Ok(records)
    }
}
