//! What `stat` tells: Nix's canonical metadata, on what looks like ext4.

use std::time::{Duration, SystemTime};

use castore::tree::Node;
use fuser::{FileAttr, FileType, INodeNo};

use crate::inode::Inode;

/// Block size, and what a directory takes.
const BLOCK: u64 = 4096;

/// The time of everything in a Nix store: one second after the epoch.
fn one() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

/// The attributes of an inode.
pub fn attributes(ino: u64, inode: &Inode) -> FileAttr {
    let (size, blocks, perm, nlink) = match inode {
        // Not counted, as ext4 says of directories that have too many directories to count.
        Inode::Root => (BLOCK, BLOCK / 512, 0o555, 1),
        Inode::Directory { .. } => (BLOCK, BLOCK / 512, 0o555, 2 + subdirectories(inode)),
        Inode::File { size, executable, .. } => {
            let perm = if *executable { 0o555 } else { 0o444 };
            (*size, size.div_ceil(BLOCK).saturating_mul(BLOCK / 512), perm, 1)
        }
        Inode::Symlink { .. } => {
            (inode.target().map_or(0, |target| target.len() as u64), 0, 0o777, 1)
        }
    };
    let one = one();
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks,
        atime: one,
        mtime: one,
        ctime: one,
        crtime: one,
        kind: kind(inode),
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

/// Whether it is a file, a directory or a symlink.
pub fn kind(inode: &Inode) -> FileType {
    match inode {
        Inode::Root | Inode::Directory { .. } => FileType::Directory,
        Inode::File { .. } => FileType::RegularFile,
        Inode::Symlink { .. } => FileType::Symlink,
    }
}

fn subdirectories(inode: &Inode) -> u32 {
    let entries = inode.entries().map_or(&[][..], |(_, _, directory)| directory.entries());
    entries.iter().filter(|entry| matches!(entry.node, Node::Directory { .. })).count() as u32
}
