//! Where a mount is made: what is there before, and how it is taken away.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::device;
use crate::error::MountError;

/// What `/proc/self/mountinfo` calls our mounts, behind `fuse.`.
pub const SUBTYPE: &str = "granary";

/// A mount, as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its device number, `major:minor`.
    pub device: String,
    /// The type of file system.
    pub kind: String,
}

impl Mounted {
    /// Whether it is one of ours.
    pub fn is_granary(&self) -> bool {
        self.kind.strip_prefix("fuse.") == Some(SUBTYPE)
    }
}

/// Checks that something can be mounted at `path`, and returns its canonical name.
pub fn check(path: &Path) -> Result<PathBuf, MountError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => MountError::Missing(path.to_owned()),
        _ if Errno::from_io_error(&source).is_some_and(is_dead) => {
            MountError::Stale(path.to_owned())
        }
        _ => MountError::Unusable { path: path.to_owned(), source },
    })?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory(path.to_owned()));
    }
    let unusable = |source| MountError::Unusable { path: path.to_owned(), source };
    let canonical = path.canonicalize().map_err(unusable)?;
    if !mounted_at(&canonical).is_some_and(|mounted| mounted.is_granary()) {
        return Ok(canonical);
    }
    // The kernel remembers the directory of a dead mount, too, but not how much is free in it.
    match rustix::fs::statvfs(&canonical) {
        Err(errno) if is_dead(errno) => Err(MountError::Stale(canonical)),
        _ => Err(MountError::AlreadyMounted(canonical)),
    }
}

/// What there is to hear from a mount whose process has died.
fn is_dead(errno: Errno) -> bool {
    matches!(errno, Errno::NOTCONN | Errno::CONNABORTED)
}

/// The uppermost mount at a path, which has to be canonical.
pub fn mounted_at(path: &Path) -> Option<Mounted> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    mounts.split(|&byte| byte == b'\n').rev().find_map(|line| parse(line, path))
}

/// Whether a mount of ours is there, alive or dead.
pub fn is_mounted(path: &Path) -> bool {
    mounted_at(&canonical_of_a_mount(path)).is_some_and(|mounted| mounted.is_granary())
}

/// A line of mountinfo, if it is about `path`. Source: proc(5).
fn parse(line: &[u8], path: &Path) -> Option<Mounted> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    if unescape(mountpoint).as_os_str() != path {
        return None;
    }
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Mounted { device: text(device), kind: text(kind) })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let (mut plain, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(plain)
}

/// Lets the kernel read ahead as far as is said, if it may be told.
pub fn set_read_ahead(mounted: &Mounted, kib: u32) {
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device);
    if let Err(error) = fs::write(&setting, kib.to_string()) {
        tracing::debug!(%setting, %error, "the kernel reads ahead as it likes");
    }
}

/// Ends a mount of ours, even one whose process has died. With `lazy` it goes away at once, and
/// what is open stays open.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
    let canonical = canonical_of_a_mount(mountpoint);
    if !mounted_at(&canonical).is_some_and(|mounted| mounted.is_granary()) {
        return Err(MountError::NotMounted(mountpoint.to_owned()));
    }
    let mut flags = UnmountFlags::NOFOLLOW;
    if lazy {
        flags |= UnmountFlags::DETACH;
    }
    match rustix::mount::unmount(&canonical, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(&canonical, lazy),
        Err(Errno::BUSY) => Err(MountError::Busy(canonical)),
        Err(Errno::INVAL) => Err(MountError::NotMounted(canonical)),
        Err(errno) => Err(MountError::Unmount { path: canonical, source: errno.into() }),
    }
}

/// A mountpoint's canonical name, without looking at the mount: it may be dead.
fn canonical_of_a_mount(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => {
            let direct = parent.join(name);
            // A symlink to a mountpoint is as good as its target.
            fs::read_link(&direct).ok().and_then(|_| direct.canonicalize().ok()).unwrap_or(direct)
        }
        _ => absolute,
    }
}

fn fusermount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = Command::new(device::FUSERMOUNT);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let output = command.output().map_err(|error| device::spawning(path, error))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("busy") {
        return Err(MountError::Busy(path.to_owned()));
    }
    Err(MountError::Fusermount { path: path.to_owned(), message })
}

/// A view's name as mountinfo and `df` show it: mount options cannot hold commas.
pub fn source_name(name: &str) -> String {
    let plain = |c: char| if c == ',' || c == '\\' || c.is_control() { '_' } else { c };
    let name: String = name.chars().map(plain).collect();
    if OsStr::new(&name).as_bytes().is_empty() { SUBTYPE.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_with_blanks_are_found() {
        let line = b"72 30 0:54 / /tmp/a\\040b\\134 ro,nosuid - fuse.granary http://x rw,user_id=0";
        let mounted = parse(line, Path::new("/tmp/a b\\")).unwrap();
        assert_eq!(mounted.device, "0:54");
        assert!(mounted.is_granary());
        assert_eq!(parse(line, Path::new("/tmp/a")), None);
        let tagged = b"72 30 0:54 / /a ro shared:3 master:1 - fuse.granaryx x rw";
        assert!(!parse(tagged, Path::new("/a")).unwrap().is_granary());
        assert_eq!(parse(b"", Path::new("/")), None);
    }

    #[test]
    fn a_source_name_is_one_mount_option() {
        assert_eq!(source_name("http://h/c,suid\n"), "http://h/c_suid_");
        assert_eq!(source_name(""), "granary");
    }

    #[test]
    fn what_is_no_mount_of_ours_is_not_unmounted() {
        for other in ["/proc", "/", "/nonexistent/x"] {
            let refused = unmount(Path::new(other), false);
            assert!(matches!(refused, Err(MountError::NotMounted(_))), "{other}");
        }
    }
}
