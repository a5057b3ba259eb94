//! Granary's mount: a cache's store paths as a read-only file system.
//!
//! Whatever it shows comes from a [`granary_lazy::View`], whose answers never change; so the kernel
//! may keep all it has been told, and a file that was read once costs no message any more. What it
//! promises to programs is docs/semantics.md.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attributes;
mod device;
mod error;
mod filesystem;
mod inode;
mod mount;
mod mountpoint;
mod passthrough;
mod push;
mod server;
mod statistics;
mod table;
mod top;
mod xattr;

pub use error::MountError;
pub use mount::{Mount, MountOptions};
pub use mountpoint::{is_mounted, unmount};
pub use statistics::Statistics;
