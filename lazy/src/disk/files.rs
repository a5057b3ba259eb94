//! Whole files on disk, for mounts that hand them to the kernel.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use castore::Digest;

use super::DiskCache;

/// A file that is being written; it is removed unless it is finished.
pub(crate) struct NewFile {
    pub file: File,
    temporary: PathBuf,
    place: PathBuf,
    done: bool,
}

/// A file that was checked, and need not be again while nobody has written to it.
#[derive(Clone)]
pub(super) struct OpenFile {
    file: Arc<File>,
    changed: (i64, i64),
}

impl OpenFile {
    fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| changed(&meta) == self.changed && meta.nlink() > 0)
    }
}

/// The time of the last change of anything about it, which nobody can set.
fn changed(meta: &Metadata) -> (i64, i64) {
    (meta.ctime(), meta.ctime_nsec())
}

impl DiskCache {
    /// The file with these contents, open for reading and checked. Blocks.
    pub(crate) fn whole_file(&self, digest: &Digest) -> Option<Arc<File>> {
        if let Some(open) = self.open_files.get(digest)
            && open.is_unchanged()
        {
            return Some(open.file);
        }
        let file = Arc::new(self.checked_file(digest)?);
        self.hold(digest, &file);
        Some(file)
    }

    fn hold(&self, digest: &Digest, file: &Arc<File>) {
        if let Ok(meta) = file.metadata() {
            let (file, changed) = (file.clone(), changed(&meta));
            self.open_files.insert(*digest, OpenFile { file, changed });
        }
    }

    /// Lets go of files that have been thrown out: they take room for as long as they are open.
    pub(super) fn close_thrown_out(&self) {
        self.open_files.retain(|_, open| open.file.metadata().is_ok_and(|meta| meta.nlink() > 0));
    }

    fn checked_file(&self, digest: &Digest) -> Option<File> {
        let place = self.dir.join("files").join(digest.to_string());
        let mut file = File::options().read(true).open(&place).ok()?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 256 * 1024]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
        }
        if Digest::from(hasher.finalize()) != *digest {
            tracing::warn!(%digest, "a damaged file of the cache is dropped, and will be fetched again");
            let _ = fs::remove_file(&place);
            return None;
        }
        // Marks it as used.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Begins a file with these contents. Blocks.
    pub(crate) fn new_file(&self, digest: &Digest) -> io::Result<NewFile> {
        let dir = self.dir.join("files");
        let temporary = dir.join(self.temporary_name());
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = file.open(&temporary)?;
        Ok(NewFile { file, temporary, place: dir.join(digest.to_string()), done: false })
    }

    /// The file is complete, and its contents are right. Blocks.
    pub(crate) fn keep_file(&self, digest: &Digest, mut new: NewFile) -> io::Result<Arc<File>> {
        fs::rename(&new.temporary, &new.place)?;
        new.done = true;
        let file = Arc::new(new.file.try_clone()?);
        drop(new);
        self.hold(digest, &file);
        self.make_room();
        Ok(file)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
