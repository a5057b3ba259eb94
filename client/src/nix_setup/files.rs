//! Files that are edited in place: as durable as new ones, and as much their owner's as before.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use castore::durable::write_file;

use super::Error;

/// Where what Nix builds lies: files there are made from a configuration, and read-only.
const STORE: &str = "/nix/store";

/// Reads a file; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Makes the folder of a file, and keeps others who edit files there out while it lives.
pub(super) fn lock_folder_of(path: &Path) -> Result<File, Error> {
    let context = |source| Error::Write { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(context)?;
    let lock = File::open(dir).map_err(context)?;
    lock.lock().map_err(context)?;
    Ok(lock)
}

/// Fails if the file is not to be edited, before anything else is.
pub(super) fn check_editable(path: &Path) -> Result<(), Error> {
    real(path).map(drop)
}

/// The file itself: a link to it stays one.
fn real(path: &Path) -> Result<PathBuf, Error> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real.starts_with(STORE) {
        return Err(Error::Managed { path: path.to_owned() });
    }
    Ok(real)
}

/// Replaces a file, or makes it with that mode; one with secrets is closed to all but its owner.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32, secret: bool) -> Result<(), Error> {
    let real = real(path)?;
    let context = |source| Error::Write { path: path.to_owned(), source };
    let before = fs::metadata(&real).ok();
    let mode = match &before {
        Some(before) if secret => before.permissions().mode() & 0o600,
        Some(before) => before.permissions().mode() & 0o7777,
        None => mode,
    };
    write_file(&real, bytes, if secret { 0o600 } else { mode }).map_err(context)?;
    // The umask does not count for a file that was there.
    fs::set_permissions(&real, Permissions::from_mode(mode)).map_err(context)?;
    if let Some(before) = before {
        let after = fs::metadata(&real).map_err(context)?;
        if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
            chown(&real, Some(before.uid()), Some(before.gid())).map_err(context)?;
        }
    }
    Ok(())
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| Error::Write { path: path.to_owned(), source }),
    }
}
