//! What an inode number stands for.
//!
//! A file below a path is its contents and its exec bit, so equal files anywhere in the mount are
//! one inode and share their pages in the page cache. Everything else is its place: a directory
//! knows its parent, and a program may tell two symlinks apart. What lies directly at the top level
//! is its place too, so that its number is known before its tree is.

use std::sync::Arc;

use castore::Digest;
use castore::tree::{Directory, Entry, Node};
use granary_lazy::{FileRef, LazyPath};

/// The inode number of the mount's root.
pub const ROOT: u64 = 1;

/// An inode. A million of them are held at a time, so it is kept to 64 bytes.
#[derive(Clone, Debug)]
pub enum Inode {
    /// The top level, where the paths are.
    Root,
    /// A directory: its digest in the path's tree, and which entry of which directory it is.
    Directory { path: Arc<LazyPath>, digest: Digest, parent: u64, index: u32 },
    /// A file, and where it was seen first. Its bytes can be read through that path for as long as
    /// the kernel knows the inode, even if it was forgotten there.
    File {
        path: Arc<LazyPath>,
        digest: Digest,
        size: u64,
        parent: u64,
        index: u32,
        executable: bool,
        /// In which epoch of the pushes the kernel was given the bytes; 0 for never.
        given: u16,
    },
    /// A symlink: which entry of which directory. Its target is in the tree.
    Symlink { path: Arc<LazyPath>, directory: Option<Digest>, parent: u64, index: u32 },
}

/// What makes two inodes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Contents and exec bit.
    Contents(Digest, bool),
    /// The parent's number and the entry's.
    Place(u64, u32),
}

const _: () = assert!(size_of::<Inode>() <= 64);

impl Inode {
    /// The root of a path, which is entry `index` of the top level.
    pub fn of_path(path: &Arc<LazyPath>, index: u32) -> Self {
        Self::of_node(path, path.tree.root(), None, ROOT, index)
    }

    /// Entry `index` of a directory, whose digest and inode number are given.
    pub fn of_entry(
        path: &Arc<LazyPath>,
        directory: &Digest,
        parent: u64,
        index: u32,
        entry: &Entry,
    ) -> Self {
        Self::of_node(path, &entry.node, Some(*directory), parent, index)
    }

    fn of_node(
        path: &Arc<LazyPath>,
        node: &Node,
        directory: Option<Digest>,
        parent: u64,
        index: u32,
    ) -> Self {
        let path = path.clone();
        match node {
            Node::Directory { digest, .. } => {
                Self::Directory { path, digest: *digest, parent, index }
            }
            Node::File { digest, size, executable } => Self::File {
                path,
                digest: *digest,
                size: *size,
                parent,
                index,
                executable: *executable,
                given: 0,
            },
            Node::Symlink { .. } => Self::Symlink { path, directory, parent, index },
        }
    }

    /// What makes this inode the same as another.
    pub fn identity(&self) -> Identity {
        match self {
            Inode::Root => Identity::Place(0, 0),
            Inode::File { digest, executable, parent, .. } if *parent != ROOT => {
                Identity::Contents(*digest, *executable)
            }
            Inode::Directory { parent, index, .. }
            | Inode::File { parent, index, .. }
            | Inode::Symlink { parent, index, .. } => Identity::Place(*parent, *index),
        }
    }

    /// The path it lies in.
    pub fn path(&self) -> Option<&Arc<LazyPath>> {
        match self {
            Inode::Root => None,
            Inode::Directory { path, .. }
            | Inode::File { path, .. }
            | Inode::Symlink { path, .. } => Some(path),
        }
    }

    /// Whether it is what a store path names.
    pub fn is_path(&self) -> bool {
        match self {
            Inode::Root => false,
            Inode::Directory { parent, .. }
            | Inode::File { parent, .. }
            | Inode::Symlink { parent, .. } => *parent == ROOT,
        }
    }

    /// A directory's entries, with the path and the digest; `None` for anything else, or if its
    /// tree is not whole.
    pub fn entries(&self) -> Option<(&Arc<LazyPath>, &Digest, &Directory)> {
        match self {
            Inode::Directory { path, digest, .. } => {
                Some((path, digest, path.tree.directory(digest).ok()?))
            }
            _ => None,
        }
    }

    /// Where a symlink points.
    pub fn target(&self) -> Option<&[u8]> {
        let Inode::Symlink { path, directory, index, .. } = self else { return None };
        let node = match directory {
            None => path.tree.root(),
            Some(digest) => &path.tree.directory(digest).ok()?.entries().get(*index as usize)?.node,
        };
        match node {
            Node::Symlink { target } => Some(target.as_bytes()),
            _ => None,
        }
    }

    /// A file's contents.
    pub fn file(&self) -> Option<FileRef> {
        match self {
            Inode::File { digest, size, .. } => Some(FileRef { digest: *digest, size: *size }),
            _ => None,
        }
    }
}
