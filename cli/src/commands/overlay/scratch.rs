//! Removing the folder of an overlay that has ended.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::output::warn;

/// Removes a folder with all that is in it. Nothing may be mounted there any more.
pub fn remove(dir: &Path) {
    let removed = fs::remove_dir_all(dir).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        // Folders in a store may not be written to, and overlayfs closes its own; their owner may
        // change that.
        ErrorKind::PermissionDenied => open_up(dir).and_then(|()| fs::remove_dir_all(dir)),
        _ => Err(error),
    });
    if let Err(error) = removed {
        warn(&format!("cannot remove {}: {error}", dir.display()));
    }
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
