//! Folders of stores, and what is left of them when a process is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder in memory where there is such a place: nothing in models is about the loss of power, and
/// memory answers faster.
pub fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.unwrap()
}

/// All files below a folder.
pub fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a folder as it is at one moment: if anything changed meanwhile (the engine writes when it
/// likes), again.
pub fn copy_still(from: &Path, to: &Path) {
    for _ in 0..50 {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        if try_copy(from, to).unwrap_or(false) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} does not stay as it is for a moment", from.display());
}

fn try_copy(from: &Path, to: &Path) -> io::Result<bool> {
    let all = files(from)?;
    let mut copied = Vec::new();
    for path in &all {
        let target = to.join(path.strip_prefix(from).map_err(io::Error::other)?);
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        let bytes = fs::read(path)?;
        fs::write(target, &bytes)?;
        copied.push(bytes);
    }
    for (path, bytes) in all.iter().zip(&copied) {
        if fs::read(path)? != *bytes {
            return Ok(false);
        }
    }
    Ok(files(from)? == all)
}
