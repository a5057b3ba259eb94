//! What is mounted inside beside the cache: memory, and the overlay at the store directory.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::failure::{Context, Failure};

/// What separates paths in overlayfs's options, and options.
const SPECIAL: [u8; 5] = [b',', b':', b'\\', b' ', b'\n'];

/// A mount, detached when dropped.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            tracing::warn!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// Memory at a directory, which is made.
pub fn memory(at: &Path) -> Result<Mounted, Failure> {
    let context = || "cannot mount memory for what is written".to_owned();
    fs::create_dir_all(at).context(context)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounted = mount("granary-overlay", at, "tmpfs", flags, c"mode=0755");
    mounted.map_err(io::Error::from).context(context)?;
    Ok(Mounted(at.to_owned()))
}

/// `upper` on top of `lower`, the uppermost first, at `store_dir`.
pub fn overlay(
    lower: &[&Path],
    upper: &Path,
    work: &Path,
    store_dir: &Path,
) -> Result<Mounted, Failure> {
    if !store_dir.is_dir() {
        fs::create_dir_all(store_dir).context(|| {
            let store_dir = store_dir.display();
            format!("there is no {store_dir} to mount at: make the directory as root")
        })?;
    }
    let options = options(lower, upper, work, in_user_namespace())?;
    mount("overlay", store_dir, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(io::Error::from)
        .context(|| {
            format!(
                "cannot mount an overlay that writes to {}: this kernel may have no overlayfs (for \
                 users Linux 5.11 is needed), or it cannot write to this file system: choose \
                 another with --upper or TMPDIR, or memory with --tmpfs",
                upper.display()
            )
        })?;
    Ok(Mounted(store_dir.to_owned()))
}

/// Options of overlayfs. Source: Documentation/filesystems/overlayfs.rst of Linux.
fn options(lower: &[&Path], upper: &Path, work: &Path, user: bool) -> Result<CString, Failure> {
    for path in lower.iter().chain([&upper, &work]) {
        if path.as_os_str().as_bytes().iter().any(|byte| SPECIAL.contains(byte)) {
            let what = "a path to mount may have no blanks, commas, colons or backslashes";
            return Err(Failure::new(format!("{what}: {}", path.display())));
        }
    }
    let mut options = b"lowerdir=".to_vec();
    let lower: Vec<_> = lower.iter().map(|path| path.as_os_str().as_bytes()).collect();
    options.extend_from_slice(&lower.join(&b':'));
    for (name, path) in [(",upperdir=", upper), (",workdir=", work)] {
        options.extend_from_slice(name.as_bytes());
        options.extend_from_slice(path.as_os_str().as_bytes());
    }
    if user {
        // Only the first namespace may write the attributes that overlayfs uses otherwise.
        options.extend_from_slice(b",userxattr");
    }
    CString::new(options).context(|| "a path to mount".to_owned())
}

/// Whether the users here are not all of the machine's. Source: user_namespaces(7).
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_whitespace().ne(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_the_layers_from_the_top() {
        let [cache, host, up, work] =
            ["/t/cache", "/nix/store", "/l/upper", "/l/work"].map(Path::new);
        let both = options(&[cache, host], up, work, true).unwrap();
        let expected = c"lowerdir=/t/cache:/nix/store,upperdir=/l/upper,workdir=/l/work,userxattr";
        assert_eq!(both.as_c_str(), expected);
        for odd in ["/a,b", "/a:b", "/a b", "/a\\b"] {
            assert!(options(&[cache], Path::new(odd), work, false).is_err(), "{odd}");
        }
    }
}
