//! Whole files on disk, for mounts that hand them to the kernel.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
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

impl DiskCache {
    /// The file with these contents, open for reading and checked. Blocks.
    pub(crate) fn whole_file(&self, digest: &Digest) -> Option<File> {
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
    pub(crate) fn keep_file(&self, mut new: NewFile) -> io::Result<File> {
        fs::rename(&new.temporary, &new.place)?;
        new.done = true;
        let file = new.file.try_clone()?;
        drop(new);
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
