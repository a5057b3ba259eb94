//! Answers to the kernel's questions.
//!
//! A question whose answer is at hand is answered by the thread that read it. Any other is answered
//! from a task, so that threads never wait for the network and any number of questions can be open.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use castore::tree::{Directory, NodeName};
use fuser::{
    Errno, FileAttr, Generation, INodeNo, Notifier, ReplyData, ReplyDirectoryPlus, ReplyEntry,
    RequestId,
};
use granary_lazy::{FileRef, LazyPath, View, ViewError};
use nix_compat::store_path::StorePath;
use tokio::runtime::Handle;

use crate::MountOptions;
use crate::attributes::{attributes, kind};
use crate::error::errno;
use crate::inode::{Inode, ROOT};
use crate::passthrough::Opened;
use crate::push::Pusher;
use crate::statistics::Counters;
use crate::table::Table;
use crate::top::{Listing, Top};

/// How long the kernel may keep what never changes.
pub const FOREVER: Duration = Duration::MAX;
/// How long the kernel may keep that a path is absent, and which paths there are: a path that was
/// pushed to the cache is seen after this time.
pub const SOON: Duration = Duration::from_secs(5);
/// Inode numbers are never given out twice.
pub const ONLY: Generation = Generation(0);

/// A view, and what the kernel knows of it.
pub struct Server<V> {
    pub view: Arc<V>,
    pub runtime: Handle,
    pub options: MountOptions,
    pub table: Arc<Table>,
    pub counters: Arc<Counters>,
    pub opened: Opened,
    top: Top,
    channel: OnceLock<Channel>,
    /// Whether the kernel is to be told soon that it should list the top level anew.
    relisting: AtomicBool,
}

/// The way to the kernel, which is there once the mount is.
pub struct Channel {
    pub device: File,
    pub notifier: Notifier,
    pub pusher: Option<Pusher>,
}

impl<V: View> Server<V> {
    pub fn new(view: Arc<V>, runtime: Handle, options: MountOptions) -> Self {
        Self {
            view,
            runtime,
            options,
            table: Arc::default(),
            counters: Arc::default(),
            opened: Opened::default(),
            top: Top::default(),
            channel: OnceLock::new(),
            relisting: AtomicBool::new(false),
        }
    }

    /// Gives it the way to the kernel, before any question is read.
    pub fn connect(&self, channel: Channel) {
        let _ = self.channel.set(channel);
    }

    /// The inode of that number. The kernel asks for no number that it was not given; it would be
    /// an error of this table.
    pub fn inode(&self, ino: u64) -> Result<Inode, Errno> {
        self.table.get(ino).ok_or(Errno::ESTALE)
    }

    pub fn lookup(self: &Arc<Self>, parent: u64, name: &[u8], reply: ReplyEntry) {
        if name.len() > NodeName::MAX {
            return reply.error(Errno::ENAMETOOLONG);
        }
        let parent_inode = match self.inode(parent) {
            Ok(inode) => inode,
            Err(errno) => return reply.error(errno),
        };
        if let Inode::Root = parent_inode {
            return self.lookup_path(name, reply);
        }
        let Some((path, digest, directory)) = parent_inode.entries() else {
            let is_directory = matches!(parent_inode, Inode::Directory { .. });
            return reply.error(if is_directory { Errno::EIO } else { Errno::ENOTDIR });
        };
        match position(directory, name) {
            Some(index) => {
                let entry = &directory.entries()[index];
                let inode = Inode::of_entry(path, digest, parent, index as u32, entry);
                let ino = self.table.refer(inode.clone());
                reply.entry(&FOREVER, &attributes(ino, &inode), ONLY);
            }
            None => absent(reply, FOREVER),
        }
    }

    fn lookup_path(self: &Arc<Self>, name: &[u8], reply: ReplyEntry) {
        let name = std::str::from_utf8(name).ok();
        let Some(wanted) = name.and_then(|name| name.parse::<StorePath>().ok()) else {
            return absent(reply, FOREVER);
        };
        if let Some(found) = self.view.path_now(wanted.hash()) {
            return self.answer_path(&wanted, Ok(found), reply);
        }
        let server = self.clone();
        self.runtime.spawn(async move {
            let found = server.view.path(wanted.hash()).await;
            server.answer_path(&wanted, found, reply);
        });
    }

    fn answer_path(
        &self,
        wanted: &StorePath,
        found: Result<Option<Arc<LazyPath>>, ViewError>,
        reply: ReplyEntry,
    ) {
        match found {
            // A view goes by the hash; the name has to be right too.
            Ok(Some(path)) if path.info.store_path == *wanted => {
                let (index, ino) = self.top.place(wanted, &self.table);
                let inode = Inode::of_path(&path, index);
                self.table.refer_as(ino, inode.clone());
                reply.entry(&FOREVER, &attributes(ino, &inode), ONLY);
            }
            Ok(_) => absent(reply, SOON),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub fn read(self: &Arc<Self>, ino: u64, offset: u64, size: u32, reply: ReplyData) {
        let (path, file, inode) = match self.inode(ino) {
            Ok(inode) => match (inode.path().cloned(), inode.file()) {
                (Some(path), Some(file)) => (path, file, inode),
                _ => return reply.error(Errno::EISDIR),
            },
            Err(errno) => return reply.error(errno),
        };
        let length = u64::from(size).min(file.size.saturating_sub(offset)) as usize;
        if length == 0 {
            return reply.data(&[]);
        }
        let pusher = self.channel.get().and_then(|channel| channel.pusher.as_ref());
        let reading = pusher.and_then(|pusher| pusher.reading(ino, &inode, offset));
        match self.view.read_now(&path, file, offset, length) {
            Some(bytes) => self.answer_read(Ok(bytes), length, file, reply),
            None => {
                let server = self.clone();
                self.runtime.spawn(async move {
                    let bytes = server.view.read(&path, file, offset, length).await;
                    server.answer_read(bytes, length, file, reply);
                    drop(reading);
                });
            }
        }
    }

    fn answer_read(
        &self,
        bytes: Result<Bytes, ViewError>,
        length: usize,
        file: FileRef,
        reply: ReplyData,
    ) {
        match bytes {
            Ok(bytes) if bytes.len() == length => {
                self.counters.read_bytes.add(length as u64);
                reply.data(&bytes);
            }
            // The kernel would take what is missing for zeroes.
            Ok(bytes) => {
                let got = bytes.len();
                tracing::error!(file = %file.digest, wanted = length, got, "a read came back short");
                reply.error(Errno::EIO);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub fn readdirplus(
        self: &Arc<Self>,
        request: RequestId,
        ino: u64,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(errno) => return reply.error(errno),
        };
        if let Inode::Root = inode {
            return self.list_paths(request, offset, reply);
        }
        let Inode::Directory { parent, .. } = &inode else {
            return reply.error(Errno::ENOTDIR);
        };
        let Some((path, digest, directory)) = inode.entries() else {
            return reply.error(Errno::EIO);
        };
        let mut full = false;
        if offset == 0 {
            full = self.add_dot(&mut reply, ino, &inode, 1, ".");
        }
        if offset <= 1 && !full {
            // Its attributes are not looked at, but its number and kind are.
            full = self.add_dot(&mut reply, *parent, &inode, 2, "..");
        }
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        for (index, entry) in directory.entries().iter().enumerate().skip(first) {
            if full {
                break;
            }
            let child = Inode::of_entry(path, digest, ino, index as u32, entry);
            let number = self.table.refer(child.clone());
            let name = std::ffi::OsStr::from_bytes(entry.name.as_bytes());
            let attributes = attributes(number, &child);
            let next = index as u64 + 3;
            full = reply.add(INodeNo(number), next, name, &FOREVER, &attributes, ONLY);
            if full {
                self.table.forget(number, 1);
            }
        }
        reply.ok();
    }

    /// Adds `.` or `..`, which the kernel does not count as references.
    fn add_dot(
        &self,
        reply: &mut ReplyDirectoryPlus,
        ino: u64,
        inode: &Inode,
        next: u64,
        name: &str,
    ) -> bool {
        let attributes = FileAttr { ino: INodeNo(ino), ..attributes(ino, inode) };
        reply.add(INodeNo(ino), next, name, &FOREVER, &attributes, ONLY)
    }

    fn list_paths(self: &Arc<Self>, request: RequestId, offset: u64, reply: ReplyDirectoryPlus) {
        if !self.options.list {
            return self.answer_paths(request, offset, false, reply);
        }
        if offset > 0 {
            return self.answer_paths(request, offset, true, reply);
        }
        let server = self.clone();
        self.runtime.spawn(async move {
            let listed = match server.view.paths().await {
                Ok(paths) => paths,
                Err(error) => return reply.error(errno(&error)),
            };
            if let Some(paths) = &listed {
                server.top.add(paths, &server.table);
            }
            server.answer_paths(request, offset, listed.is_some(), reply);
            server.list_again_soon();
        });
    }

    /// Answers with the paths from `offset` on. `reply` says how many fit, and is what fuser
    /// believes to be the answer; the kernel takes the first one it gets, which is the listing.
    fn answer_paths(
        &self,
        request: RequestId,
        offset: u64,
        list: bool,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(channel) = self.channel.get() else { return reply.error(Errno::EIO) };
        let root = attributes(ROOT, &Inode::Root);
        let mut listing = Listing::new();
        let mut add = |name: &str, ino: u64, next: u64, inode: Option<&Inode>| {
            let full = reply.add(INodeNo(ino), next, name, &FOREVER, &root, ONLY);
            if !full {
                listing.add(name.as_bytes(), ino, next, inode.map(kind));
            }
            full
        };
        let mut full = offset == 0 && add(".", ROOT, 1, Some(&Inode::Root));
        full = full || (offset <= 1 && add("..", ROOT, 2, Some(&Inode::Root)));
        if list && !full {
            let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
            self.top.list(first, |index, name, ino| {
                add(name, ino, index as u64 + 3, self.table.get(ino).as_ref())
            });
        }
        if let Err(error) = listing.send(&channel.device, request) {
            tracing::debug!(%error, "a listing was not wanted any more");
        }
        reply.ok();
    }

    /// The kernel keeps a listing until it is told not to.
    fn list_again_soon(self: &Arc<Self>) {
        if self.relisting.swap(true, Ordering::AcqRel) {
            return;
        }
        let server = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(SOON).await;
            let Some(server) = server.upgrade() else { return };
            server.relisting.store(false, Ordering::Release);
            let invalidated = tokio::task::spawn_blocking(move || {
                server
                    .channel
                    .get()
                    .map_or(Ok(()), |channel| channel.notifier.inval_inode(INodeNo::ROOT, 0, 0))
            });
            if let Ok(Err(error)) = invalidated.await {
                tracing::debug!(%error, "the mount is gone");
            }
        });
    }
}

/// Says that there is no such entry, which the kernel may believe for a while.
fn absent(reply: ReplyEntry, time: Duration) {
    let nothing = FileAttr { ino: INodeNo(0), ..attributes(0, &Inode::Root) };
    reply.entry(&time, &nothing, ONLY);
}

fn position(directory: &Directory, name: &[u8]) -> Option<usize> {
    directory.entries().binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok()
}
