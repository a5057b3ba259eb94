//! Opens that hand the kernel a plain file to read from, for large files of a mount that wants it.
//!
//! While an inode is open the kernel wants all its opens to be alike: either through the page cache,
//! or through one and the same backing file. So the first open decides, and the last release lets
//! the backing file go.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyOpen};
use granary_lazy::{View, ViewError};

use crate::error::errno;
use crate::filesystem::CACHED;
use crate::server::Server;

/// Files up to this size are read through the page cache: fetching them whole before the open
/// returns, and two messages for each, is worth it for long files only.
pub const CACHED_UP_TO: u64 = 64 * 1024;

/// The handle of opens that are not counted, and of those that are.
const UNCOUNTED: FileHandle = FileHandle(0);
const COUNTED: FileHandle = FileHandle(1);

/// The files that are open now.
#[derive(Debug, Default)]
pub struct Opened(Mutex<HashMap<u64, Open>>);

#[derive(Debug)]
struct Open {
    /// `None` if it is read through the page cache.
    backing: Option<Arc<BackingId>>,
    opens: u64,
}

impl Opened {
    fn files(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        // Nothing here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file that is open already, as it is.
    fn join(&self, ino: u64, reply: ReplyOpen) -> Option<ReplyOpen> {
        let mut files = self.files();
        let Some(open) = files.get_mut(&ino) else { return Some(reply) };
        open.opens += 1;
        let backing = open.backing.clone();
        drop(files);
        opened(reply, backing);
        None
    }

    /// Opens a file by what backs it, if anything does, unless somebody was faster.
    fn begin(&self, ino: u64, file: Option<&File>, reply: ReplyOpen) {
        let mut files = self.files();
        if let Some(open) = files.get_mut(&ino) {
            open.opens += 1;
            let backing = open.backing.clone();
            drop(files);
            return opened(reply, backing);
        }
        let backing = match file.map(|file| reply.open_backing(file)) {
            Some(Ok(backing)) => Some(Arc::new(backing)),
            Some(Err(error)) => {
                not_backed(&error);
                None
            }
            None => None,
        };
        files.insert(ino, Open { backing: backing.clone(), opens: 1 });
        drop(files);
        opened(reply, backing);
    }

    /// One open less.
    pub fn release(&self, ino: u64, handle: FileHandle) {
        if handle != COUNTED {
            return;
        }
        let mut files = self.files();
        if let Some(open) = files.get_mut(&ino) {
            open.opens -= 1;
            if open.opens == 0 {
                files.remove(&ino);
            }
        }
    }
}

fn opened(reply: ReplyOpen, backing: Option<Arc<BackingId>>) {
    match backing {
        Some(backing) => {
            reply.opened_passthrough(COUNTED, FopenFlags::FOPEN_NOFLUSH, &backing);
        }
        None => reply.opened(COUNTED, CACHED),
    }
}

fn not_backed(error: &io::Error) {
    tracing::warn!(
        %error,
        "the kernel does not pass reads through to the local cache, so they go through the page \
         cache; is the local cache on an overlay file system?"
    );
}

impl<V: View> Server<V> {
    /// Opens a file in a mount that passes reads through.
    pub fn open(self: &Arc<Self>, ino: u64, reply: ReplyOpen) {
        let (path, file) = match self.inode(ino) {
            Ok(inode) => match (inode.path().cloned(), inode.file()) {
                (Some(path), Some(file)) => (path, file),
                _ => return reply.error(Errno::EISDIR),
            },
            Err(errno) => return reply.error(errno),
        };
        if file.size <= CACHED_UP_TO {
            return reply.opened(UNCOUNTED, CACHED);
        }
        let Some(reply) = self.opened.join(ino, reply) else { return };
        let server = self.clone();
        self.runtime.spawn(async move {
            let plain: Result<Arc<File>, ViewError> = server.view.materialise(&path, file).await;
            match plain {
                Ok(plain) => server.opened.begin(ino, Some(&plain), reply),
                Err(ViewError::NoRoom { .. }) => server.opened.begin(ino, None, reply),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}
