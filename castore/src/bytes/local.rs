//! Packs as files of one folder: `<id>.open` while it grows, `<id>.pack` once sealed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{AppendPack, Durability, Listed, PackBackend, ReadPack, Wait, vectored};
use crate::durable::{sync_dir, write_file};
use crate::pack::PackId;

/// A folder of packs.
pub struct LocalPacks {
    dir: PathBuf,
}

impl LocalPacks {
    /// Opens the folder, making it if need be.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, id: PackId, sealed: bool) -> PathBuf {
        self.dir.join(format!("{id}.{}", if sealed { "pack" } else { "open" }))
    }

    /// Beside the folder: in it are packs alone.
    fn note_path(&self, name: &str) -> PathBuf {
        let mut path = self.dir.clone().into_os_string();
        path.push(".");
        path.push(name);
        path.into()
    }

    fn appendable(&self, id: PackId, file: File) -> Arc<LocalPack> {
        let rename = Some((self.path(id, false), self.path(id, true)));
        Arc::new(LocalPack { file, rename })
    }
}

impl PackBackend for LocalPacks {
    fn durability(&self) -> Durability {
        Durability::Synced
    }

    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut packs = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some((stem, suffix)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let (Ok(id), true) = (stem.parse(), matches!(suffix, "pack" | "open")) else {
                continue;
            };
            packs.push(Listed { id, sealed: suffix == "pack", len: None });
        }
        packs.sort_by_key(|pack| pack.id);
        Ok(packs)
    }

    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>> {
        let file = File::open(self.path(id, sealed))?;
        Ok(Arc::new(LocalPack { file, rename: None }))
    }

    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(self.path(id, false))?;
        sync_dir(&self.dir)?;
        Ok(self.appendable(id, file))
    }

    fn reopen(&self, id: PackId, len: u64) -> io::Result<Arc<dyn AppendPack>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(id, false))?;
        if file.metadata()?.len() != len {
            file.set_len(len)?;
            file.sync_all()?;
        }
        Ok(self.appendable(id, file))
    }

    fn discard(&self, id: PackId) -> io::Result<()> {
        fs::remove_file(self.path(id, false))
    }

    fn remove(&self, id: PackId) -> io::Result<()> {
        match fs::remove_file(self.path(id, true)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.dir),
        }
    }

    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()> {
        write_file(&self.path(id, true), &pack, 0o644)
    }

    fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        present(fs::metadata(self.path(id, true))).map(|found| found.map(|data| data.len()))
    }

    fn note(&self, name: &str) -> io::Result<Option<String>> {
        present(fs::read_to_string(self.note_path(name)))
    }

    fn set_note(&self, name: &str, text: &str) -> io::Result<()> {
        write_file(&self.note_path(name), text.as_bytes(), 0o644)
    }

    fn tidy(&self, _older_than: Duration) -> io::Result<u64> {
        Ok(0)
    }

    fn check(&self) -> io::Result<()> {
        fs::metadata(&self.dir).map(drop)
    }
}

/// `None` where there is no such file.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

struct LocalPack {
    file: File,
    /// From where to where sealing renames the file.
    rename: Option<(PathBuf, PathBuf)>,
}

impl ReadPack for LocalPack {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        vectored::read(&self.file, offset, buffers, wait)
    }
}

impl AppendPack for LocalPack {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn seal(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some((from, to)) = &self.rename {
            fs::rename(from, to)?;
            sync_dir(to.parent().unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }
}
