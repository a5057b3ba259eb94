//! A pack that grows: a local file, until sealing makes it an object.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::core::Core;
use super::pack::S3Pack;
use super::upload::upload;
use crate::bytes::{AppendPack, ReadPack, Wait, vectored};
use crate::pack::PackId;

/// A pack in the spool, and after sealing in the object store.
pub struct SpoolPack {
    core: Arc<Core>,
    id: PackId,
    path: PathBuf,
    /// `None` once the pack is sealed.
    file: RwLock<Option<Arc<File>>>,
    /// Held while the pack is uploaded: by one at a time.
    sealing: Mutex<()>,
    sealed: S3Pack,
}

impl SpoolPack {
    /// A new, empty one.
    pub fn create(core: &Arc<Core>, id: PackId) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        Self::open(core, id, options)
    }

    /// One that grows by another handle.
    pub fn reader(core: &Arc<Core>, id: PackId) -> io::Result<Self> {
        Self::open(core, id, OpenOptions::new().read(true))
    }

    fn open(core: &Arc<Core>, id: PackId, options: &OpenOptions) -> io::Result<Self> {
        let path = core.spooled(id);
        let file = RwLock::new(Some(Arc::new(options.open(&path)?)));
        let sealed = S3Pack { core: core.clone(), id };
        Ok(Self { core: core.clone(), id, path, file, sealing: Mutex::default(), sealed })
    }

    fn file(&self) -> Option<Arc<File>> {
        self.file.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn growing(&self) -> io::Result<Arc<File>> {
        let what = || io::Error::other(format!("pack {} is sealed: it does not change", self.id));
        self.file().ok_or_else(what)
    }
}

impl ReadPack for SpoolPack {
    fn len(&self) -> io::Result<u64> {
        match self.file() {
            Some(file) => Ok(file.metadata()?.len()),
            None => self.sealed.len(),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_vectored_at(offset, &mut [IoSliceMut::new(buffer)], Wait::Yes)
    }

    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        match self.file() {
            Some(file) => vectored::read(&file, offset, buffers, wait),
            None => self.sealed.read_vectored_at(offset, buffers, wait),
        }
    }

    fn will_read(&self, range: Range<u64>) {
        if self.file().is_none() {
            self.sealed.will_read(range);
        }
    }

    fn distrust(&self, range: Range<u64>) {
        if self.file().is_none() {
            self.sealed.distrust(range);
        }
    }
}

impl AppendPack for SpoolPack {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.growing()?.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.growing()?.set_len(len)
    }

    /// Nothing: what is not sealed is not durable, whatever the disk has.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn seal(&self) -> io::Result<()> {
        let _one = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.file() else {
            return Ok(());
        };
        let len = file.metadata()?.len();
        let (bucket, name) = (self.core.bucket.clone(), super::object_name(self.id));
        self.core.wait(async move { upload(&bucket, &name, file, len).await })?;
        if let Err(error) = self.core.pages.adopt(&self.path, self.id, len) {
            tracing::debug!(%error, pack = %self.id, "a sealed pack could not be kept in the cache");
            let _ = fs::remove_file(&self.path);
        }
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.core.log_statistics();
        Ok(())
    }
}
