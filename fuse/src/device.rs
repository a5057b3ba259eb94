//! The way to the kernel: an open /dev/fuse that is mounted somewhere.
//!
//! Root mounts by itself. Anybody else has fusermount3 do it, which is set-user-id: it is given one
//! end of a socket as `_FUSE_COMMFD`, sends the open device through it, and exits. fuser could do
//! all this too, but unmounts by path when its session ends, whatever is mounted there by then.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::MountError;
use crate::mountpoint::SUBTYPE;

/// The program that mounts for users.
pub const FUSERMOUNT: &str = "fusermount3";

/// Mounts at a directory and returns the device.
pub fn mount(at: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let device = open()?;
    let failed = |source: io::Error| MountError::Mount { path: at.to_owned(), source };
    let mode = fs::metadata(at).map_err(failed)?.mode();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let options = options(allow_other);
    let data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},{options}",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).map_err(|error| failed(error.into()))?;
    // Without RDONLY each read would have the kernel ask for the time of the last read. There are
    // no devices in a store and no set-user-id programs; and with NOSUID, executing a program does
    // not ask for its capabilities.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount(source, at, "fuse", flags, data.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM) => {
            drop(device);
            fusermount(at, source, &options)
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

fn options(allow_other: bool) -> String {
    let others = if allow_other { ",allow_other" } else { "" };
    format!("default_permissions,subtype={SUBTYPE}{others}")
}

fn open() -> Result<File, MountError> {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(device) => Ok(device),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MountError::NoDevice),
        Err(error) => match Errno::from_io_error(&error) {
            // The file is there, and no driver behind it.
            Some(Errno::NODEV | Errno::NXIO) => Err(MountError::NoDevice),
            _ => Err(MountError::DeviceRefused(error)),
        },
    }
}

fn fusermount(at: &Path, source: &str, options: &str) -> Result<OwnedFd, MountError> {
    let failed = |source: io::Error| MountError::Mount { path: at.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let output = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(format!("ro,nosuid,nodev,fsname={source},{options}"))
        .arg("--")
        .arg(at)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| spawning(at, error))?;
    drop(theirs);
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("user_allow_other") {
        return Err(MountError::AllowOtherRefused);
    }
    if !output.status.success() {
        return Err(MountError::Fusermount { path: at.to_owned(), message });
    }
    receive(&ours)
        .map_err(|errno| failed(errno.into()))?
        .ok_or_else(|| MountError::Fusermount { path: at.to_owned(), message })
}

/// Takes the device from the socket, where it waits.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok(received)
}

/// Why fusermount3 could not be started.
pub fn spawning(at: &Path, source: io::Error) -> MountError {
    match source.kind() {
        // Searching PATH is refused when any directory in it is.
        ErrorKind::NotFound | ErrorKind::PermissionDenied if !has_fusermount() => {
            MountError::NoFusermount
        }
        _ => MountError::Mount { path: at.to_owned(), source },
    }
}

fn has_fusermount() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(FUSERMOUNT).exists())
}
