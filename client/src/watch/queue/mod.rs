//! The queue: store paths that wait to be pushed to one cache, safe on disk.
//!
//! A directory, mode 0700:
//!
//! | | |
//! |---|---|
//! | `cache` | URL of the cache: a queue is for one |
//! | `new/TIME-PID-NUMBER` | an entry: paths that wait, see [`entry`]; names sort by age |
//! | `tmp/` | entries being written |
//! | `failed/HASH-NAME` | a path that could not be pushed: why, how often, when it is tried again |
//! | `aside/` | what was found in `new/` and is no entry |
//! | `seen` | paths of the store that need not be looked at again, see [`super::seen`] |
//! | `lock` | held by the process that takes paths out |
//!
//! An entry is written to `tmp/`, synced, moved to `new/`, and the move synced: then it is
//! acknowledged. So an entry is there whole or not at all, and any number of processes add at the
//! same time. It is removed when each of its paths is published or has its file in `failed/`; a
//! process that is killed before that leaves the entry as it was. This is how maildir works.

mod drain;
mod entry;
mod failed;

use std::collections::BinaryHeap;
use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use castore::durable::sync_dir;
use nix_compat::store_path::StorePath;

use crate::http::BaseUrl;

pub use drain::{Batch, Drain};
pub use failed::FailedPath;

/// Paths in one entry: some 60 KiB.
const ENTRY_PATHS: usize = 1000;
/// Entries that are looked at in one go. The directory may hold any number.
const LISTED: usize = 1024;
/// Temporary files older than this belong to processes that were killed, in seconds.
const STALE: u64 = 3600;

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of the queue.
    #[error("the queue: cannot {doing} {}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The queue is another cache's.
    #[error(
        "the queue in {} is for {theirs}, not for {ours}: name another with --queue",
        dir.display()
    )]
    Other {
        /// The queue.
        dir: PathBuf,
        /// Its cache.
        theirs: String,
        /// The cache that was meant.
        ours: String,
    },
    /// Somebody else takes paths out.
    #[error(
        "another process already pushes what is in the queue {}: stop it first, or name another \
         queue with --queue",
        .0.display()
    )]
    Locked(PathBuf),
}

/// Says what was to be done when it failed.
fn at<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { doing, path: path.to_owned(), source })
}

/// The name of a cache's queue among others: `HOST[_PORT…]-CACHE`.
pub fn queue_name(server: &BaseUrl, cache: &str) -> String {
    let server = server.to_string();
    let place = server.split_once("://").map_or(server.as_str(), |(_, place)| place);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let place: String = place.trim_start_matches('.').chars().map(plain).collect();
    format!("{place}-{cache}")
}

/// A queue. Handles are cheap, and there may be many in many processes.
#[derive(Clone, Debug)]
pub struct Queue {
    dir: PathBuf,
}

impl Queue {
    /// The queue in `dir` for the cache with that URL, made if it is not there.
    pub fn open(dir: &Path, cache: &str) -> Result<Self, Error> {
        for dir in
            [dir, &dir.join("tmp"), &dir.join("new"), &dir.join("failed"), &dir.join("aside")]
        {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            at("make", dir, made)?;
        }
        let queue = Self { dir: dir.to_owned() };
        let path = dir.join("cache");
        match fs::read_to_string(&path) {
            Ok(theirs) if theirs.trim() == cache => {}
            Ok(theirs) => {
                let (theirs, ours) = (theirs.trim().to_owned(), cache.to_owned());
                return Err(Error::Other { dir: queue.dir, theirs, ours });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Whoever else makes it at the same time means the same cache, or will be told.
                queue.write(&path, format!("{cache}\n").as_bytes())?;
                at("sync", dir, sync_dir(dir))?;
            }
            Err(error) => return at("read", &path, Err(error)),
        }
        Ok(queue)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder in which entries appear.
    pub(super) fn entries(&self) -> PathBuf {
        self.dir.join("new")
    }

    /// Adds paths. They are safe when this returns.
    pub fn add(&self, paths: &[StorePath]) -> Result<(), Error> {
        for paths in paths.chunks(ENTRY_PATHS) {
            self.write(&self.entries().join(unique()), &entry::encode(paths))?;
        }
        let entries = self.entries();
        at("sync", &entries, sync_dir(&entries))
    }

    /// Becomes the one that takes paths out, until it is dropped.
    pub fn drain(&self) -> Result<Drain, Error> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = at("open", &path, file)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(self.dir.clone())),
            Err(TryLockError::Error(error)) => return at("lock", &path, Err(error)),
        }
        self.sweep()?;
        Ok(Drain::new(self.clone(), file))
    }

    /// Paths that wait, oldest first, at most `limit`; and whether there are more.
    pub fn waiting(&self, limit: usize) -> Result<(Vec<StorePath>, bool), Error> {
        let mut waiting = Vec::new();
        let (names, mut more) = self.oldest()?;
        for name in names {
            // Pushed meanwhile, or about to be put aside.
            let Ok(Some(paths)) = self.read(&name) else { continue };
            waiting.extend(paths);
            if waiting.len() > limit {
                waiting.truncate(limit);
                more = true;
                break;
            }
        }
        Ok((waiting, more))
    }

    /// Paths that could not be pushed.
    pub fn failed(&self) -> Result<Vec<FailedPath>, Error> {
        failed::list(&self.dir)
    }

    /// Lets failed paths wait once more, as if they had never failed: those that are named, or all
    /// of them. Returns how many.
    pub fn retry(&self, only: &[StorePath]) -> Result<usize, Error> {
        let failed = self.failed()?.into_iter().map(|failed| failed.path);
        let again: Vec<_> = failed.filter(|path| only.is_empty() || only.contains(path)).collect();
        self.add(&again)?;
        for path in &again {
            failed::forget(&self.dir, path)?;
        }
        Ok(again.len())
    }

    /// Forgets the paths that failed, and unless `only_failed` those that wait too.
    pub fn clear(&self, only_failed: bool) -> Result<(), Error> {
        for failed in self.failed()? {
            failed::forget(&self.dir, &failed.path)?;
        }
        if only_failed {
            return Ok(());
        }
        loop {
            let (names, more) = self.oldest()?;
            for name in names {
                self.remove(&name)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Writes a file of the queue: whole or not at all. Its name is not safe yet.
    fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Error> {
        let temporary = self.dir.join("tmp").join(unique());
        let written = (|| {
            let mut open = OpenOptions::new();
            let mut file = open.write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(contents)?;
            file.sync_all()
        })();
        let written = written.and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // What is left is swept later.
            drop(fs::remove_file(&temporary));
        }
        at("write", path, written)
    }

    /// The names of the oldest entries, and whether there are more.
    fn oldest(&self) -> Result<(Vec<String>, bool), Error> {
        let dir = self.entries();
        let (mut oldest, mut more) = (BinaryHeap::new(), false);
        for entry in at("read", &dir, fs::read_dir(&dir))? {
            let name = at("read", &dir, entry)?.file_name();
            oldest.push(name);
            if oldest.len() > LISTED {
                oldest.pop();
                more = true;
            }
        }
        let mut names = Vec::with_capacity(oldest.len());
        for name in oldest.into_sorted_vec() {
            match name.into_string() {
                Ok(name) => names.push(name),
                Err(name) => self.put_aside(Path::new(&name), "its name is not text"),
            }
        }
        Ok((names, more))
    }

    /// The paths of an entry, `None` if it is gone. What is no entry is put aside.
    fn read(&self, name: &str) -> Result<Option<Vec<StorePath>>, Error> {
        let path = self.entries().join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.put_aside(Path::new(name), "it is a folder");
                return Ok(None);
            }
            Err(error) => return at("read", &path, Err(error)),
        };
        match entry::decode(&text) {
            Ok(paths) => Ok(Some(paths)),
            Err(error) => {
                self.put_aside(Path::new(name), &error.to_string());
                Ok(None)
            }
        }
    }

    fn put_aside(&self, name: &Path, why: &str) {
        let (from, to) = (self.entries().join(name), self.dir.join("aside").join(name));
        match fs::rename(&from, &to) {
            Ok(()) => tracing::warn!("{why}: put aside as {}", to.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{why}: {} ignored ({error})", from.display()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.entries().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // If the removal is lost with the power, its paths are found to be there already.
            removed => at("remove", &path, removed),
        }
    }

    /// Removes what killed processes have left half written.
    fn sweep(&self) -> Result<(), Error> {
        let dir = self.dir.join("tmp");
        for entry in at("read", &dir, fs::read_dir(&dir))? {
            let entry = at("read", &dir, entry)?;
            let age = entry.metadata().and_then(|meta| meta.modified());
            let age = age.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            if age.as_secs() > STALE {
                // Another time, then.
                drop(fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A file name that no other process and no other call has: later ones sort later.
fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{time:020}-{}-{number:06}", std::process::id())
}

#[cfg(test)]
mod tests;
