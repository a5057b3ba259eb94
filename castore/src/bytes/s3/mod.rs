//! Packs as objects of an S3 bucket: `PREFIX/packs/<id>.pack`.
//!
//! An object is there whole or not at all, so a pack grows in a local file (`spool/`) and is durable
//! once sealing has uploaded it. What is read comes through a bounded cache of pages (`cache/`), and a
//! pack that was sealed here is its own first cache entry. Neither folder holds anything that cannot be
//! lost: after a crash the spool is emptied, and the cache is believed only as far as records' checksums
//! go.

mod bucket;
mod client;
mod core;
mod direct;
mod disk;
mod error;
mod flight;
mod location;
mod pack;
mod pages;
mod retry;
mod spool;
mod statistics;
#[cfg(test)]
mod tests;
mod throttle;
mod upload;
mod window;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::Credentials;
use bytes::Bytes;
use tokio::runtime::Builder;

pub use location::{S3Location, S3LocationError};
pub use statistics::S3Statistics;

use self::bucket::Bucket;
use self::core::Core;
use self::disk::Disk;
use self::pack::S3Pack;
use self::pages::Pages;
use self::retry::Patience;
use self::spool::SpoolPack;
use self::window::PAGE;
use super::{AppendPack, Direct, Durability, Listed, PackBackend, ReadPack};
use crate::pack::PackId;

/// Where packs lie below the location's prefix.
const PACKS: &str = "packs/";
/// Threads that talk to the server. Signing hashes what is sent, so one would stand still meanwhile.
const THREADS: usize = 2;
/// Threads for the files they read and write meanwhile.
const FILE_THREADS: usize = 4;
/// A smaller cache would push out a fetch's pages before they are read.
const LEAST_CACHE: u64 = 8 * PAGE;

/// The object's name below the location's prefix.
fn object_name(id: PackId) -> String {
    format!("{PACKS}{id}.pack")
}

/// Packs in a bucket.
pub struct S3Packs {
    core: Arc<Core>,
}

impl S3Packs {
    /// Opens a location, with credentials of the standard AWS chain. `dir` is a local folder of this
    /// backend alone; the read cache in it is kept to `cache_bytes` (8 MiB at least). The server is
    /// not asked anything yet.
    pub fn open(location: S3Location, dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        Self::open_as(location, dir, cache_bytes, None, Patience::default())
    }

    /// The same with credentials that are known already.
    pub fn open_with_key(
        location: S3Location,
        dir: &Path,
        cache_bytes: u64,
        access_key: &str,
        secret: &str,
    ) -> io::Result<Self> {
        let credentials = Credentials::new(access_key, secret, None, None, "given");
        Self::open_as(location, dir, cache_bytes, Some(credentials), Patience::default())
    }

    fn open_as(
        location: S3Location,
        dir: &Path,
        cache_bytes: u64,
        credentials: Option<Credentials>,
        patience: Patience,
    ) -> io::Result<Self> {
        let spool = dir.join("spool");
        fs::create_dir_all(&spool)?;
        for entry in fs::read_dir(&spool)? {
            fs::remove_file(entry?.path())?;
        }
        let cache_bytes = cache_bytes.max(LEAST_CACHE);
        let disk = Disk::open(dir.join("cache"), cache_bytes)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(FILE_THREADS)
            .thread_name("s3")
            .enable_all()
            .build()?;
        let clients = self::core::wait(Some(&runtime), {
            let location = location.clone();
            async move { Ok(client::connect(&location, credentials).await) }
        })?;
        let bucket = Arc::new(Bucket::new(clients, location, patience));
        let handle = runtime.handle().clone();
        let pages = Arc::new(Pages::new(bucket.clone(), handle, disk, cache_bytes));
        Ok(Self { core: Arc::new(Core { runtime: Some(runtime), bucket, pages, spool }) })
    }

    /// Requests and bytes so far.
    pub fn statistics(&self) -> S3Statistics {
        self.core.bucket.counters.snapshot()
    }

    /// A URL by which anybody can read the object `name`, a name below the location's prefix, for as
    /// long as `expires` (a second to seven days), at the public endpoint if there is one. Whether
    /// there is such an object is not looked at.
    pub fn presigned_get(&self, name: &str, expires: Duration) -> io::Result<String> {
        let (bucket, name) = (self.core.bucket.clone(), name.to_owned());
        self.core.wait(async move { bucket.presigned(&name, expires).await })
    }

    /// The name below the location's prefix of a sealed pack.
    pub fn pack_name(id: PackId) -> String {
        object_name(id)
    }
}

impl PackBackend for S3Packs {
    fn direct(&self) -> Option<&dyn Direct> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        Durability::Sealed
    }

    /// Sealed packs only: one that grows here is known to who created it, and to nobody later.
    fn list(&self) -> io::Result<Vec<Listed>> {
        let bucket = self.core.bucket.clone();
        let objects = self.core.wait(async move { Ok(bucket.list(PACKS).await?) })?;
        let pack = |object: &bucket::Object| {
            let id = object.name.strip_prefix(PACKS)?.strip_suffix(".pack")?.parse().ok()?;
            Some(Listed { id, sealed: true, len: object.len })
        };
        let mut packs: Vec<Listed> = objects.iter().filter_map(pack).collect();
        packs.sort_by_key(|pack| pack.id);
        for pack in &packs {
            if let Some(len) = pack.len {
                self.core.pages.set_length(pack.id, len);
            }
        }
        Ok(packs)
    }

    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>> {
        if sealed {
            Ok(Arc::new(S3Pack { core: self.core.clone(), id }))
        } else {
            Ok(Arc::new(SpoolPack::reader(&self.core, id)?))
        }
    }

    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>> {
        Ok(Arc::new(SpoolPack::create(&self.core, id)?))
    }

    fn reopen(&self, id: PackId, _len: u64) -> io::Result<Arc<dyn AppendPack>> {
        let what = "an unsealed pack in an object store does not outlive its process";
        Err(io::Error::new(io::ErrorKind::NotFound, format!("pack {id}: {what}")))
    }

    fn discard(&self, id: PackId) -> io::Result<()> {
        fs::remove_file(self.core.spooled(id))
    }

    fn remove(&self, id: PackId) -> io::Result<()> {
        let (bucket, name) = (self.core.bucket.clone(), object_name(id));
        self.core.wait(async move { Ok(bucket.delete(&name).await?) })?;
        self.core.pages.remove(id);
        Ok(())
    }

    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()> {
        let (bucket, len) = (self.core.bucket.clone(), pack.len() as u64);
        let name = object_name(id);
        self.core.wait(async move { Ok(bucket.put(&name, Bytes::from(pack), true).await?) })?;
        self.core.pages.set_length(id, len);
        Ok(())
    }

    fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        self.core.stat(id)
    }

    fn note(&self, name: &str) -> io::Result<Option<String>> {
        let (bucket, name) = (self.core.bucket.clone(), name.to_owned());
        self.core.wait(async move { Ok(bucket.text(&name).await?) })
    }

    fn set_note(&self, name: &str, text: &str) -> io::Result<()> {
        let (bucket, name) = (self.core.bucket.clone(), name.to_owned());
        let text = Bytes::copy_from_slice(text.as_bytes());
        self.core.wait(async move { Ok(bucket.put(&name, text, false).await?) })
    }

    fn tidy(&self, older_than: Duration) -> io::Result<u64> {
        let before = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let bucket = self.core.bucket.clone();
        self.core.wait(async move { Ok(bucket.abort_uploads(before).await?) })
    }

    fn check(&self) -> io::Result<()> {
        let bucket = self.core.bucket.clone();
        self.core.wait(async move { Ok(bucket.check().await?) })
    }
}
