//! Why a mount cannot be made, and what programs are told of a view's errors.

use std::io;
use std::path::PathBuf;

use fuser::Errno;
use granary_lazy::ViewError;

/// Why there is no mount, or why it does not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mountpoint is not there.
    #[error("{} does not exist: make the directory, then mount again", .0.display())]
    Missing(PathBuf),
    /// The mountpoint is something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The mountpoint cannot be looked at.
    #[error("{} cannot be used as a mountpoint", .path.display())]
    Unusable {
        /// The mountpoint.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount whose process has died is still there.
    #[error(
        "{} is what a mount left behind whose process has died: take it away with `granary umount {}`",
        .0.display(), .0.display()
    )]
    Stale(PathBuf),
    /// There is a Granary there already.
    #[error("a Granary is mounted at {} already: end it with `granary umount {}`", .0.display(), .0.display())]
    AlreadyMounted(PathBuf),
    /// The kernel has no FUSE.
    #[error(
        "there is no /dev/fuse: load the kernel's module with `modprobe fuse`, or give the container the device"
    )]
    NoDevice,
    /// The device may not be opened.
    #[error(
        "/dev/fuse cannot be opened: it is usually open to everybody (mode 0666), here it is not"
    )]
    DeviceRefused(#[source] io::Error),
    /// The helper that mounts for users is not installed.
    #[error("mounting without being root needs the program fusermount3: install the package fuse3")]
    NoFusermount,
    /// Users may not let others in.
    #[error("other users can be let in only with the line `user_allow_other` in /etc/fuse.conf")]
    AllowOtherRefused,
    /// The kernel cannot list directories with attributes.
    #[error("the kernel is too old: Linux 3.9 or later is needed")]
    OldKernel,
    /// The kernel has no passthrough.
    #[error(
        "the kernel cannot pass reads through to files: Linux 6.9 or later is needed; mount without passthrough"
    )]
    NoPassthrough,
    /// This process may not use it.
    #[error(
        "reads can be passed through to files by root only (CAP_SYS_ADMIN): mount without passthrough"
    )]
    PassthroughRefused,
    /// Somebody has a file open, or stands in a directory.
    #[error("{} is in use: end the programs that use it, or detach it with `granary umount --lazy {}`", .0.display(), .0.display())]
    Busy(PathBuf),
    /// It is not a mount.
    #[error("nothing is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// fusermount3 said no.
    #[error("fusermount3 could not do it for {}: {message}", .path.display())]
    Fusermount {
        /// The mountpoint.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// Anything else.
    #[error("{} cannot be mounted", .path.display())]
    Mount {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel or fusermount3 said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{} cannot be unmounted", .path.display())]
    Unmount {
        /// The mountpoint.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What a program is told. The log says more, and what to do.
pub fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::Untrusted { .. } | ViewError::Unreachable { .. } => Errno::EIO,
        // A kind of error that is not known here is no answer either.
        _ => Errno::EIO,
    }
}
