//! The questions of the kernel, counted and handed on.
//!
//! A panic in an answer is an I/O error to the program that asked, and the mount goes on: replies
//! that are dropped unanswered say so themselves.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use granary_lazy::View;

use crate::attributes::attributes;
use crate::server::{FOREVER, Server};
use crate::xattr;

/// Largest read, in bytes, which is the largest the kernel sends.
const MAX_READ: u32 = 1 << 20;
/// How many reads may be under way that the kernel does not wait for itself. Programs wait for their
/// pages, and can be killed meanwhile; but from three quarters of this on, or as many as are said to
/// be a congestion, the kernel reads page by page and waits where nobody can be killed.
const MAX_BACKGROUND: u16 = 4096;

/// A server, as fuser sees it.
pub struct Filesystem<V>(pub Arc<Server<V>>);

fn guarded(answer: impl FnOnce()) {
    // The hook has told of the panic.
    let _ = catch_unwind(AssertUnwindSafe(answer));
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}

/// What the kernel has to be able to do.
pub const OLD_KERNEL: &str = "readdirplus";
/// What it has to be able to do for passthrough.
pub const NO_PASSTHROUGH: &str = "passthrough";

macro_rules! read_only {
    ($($name:ident($($argument:ident: $type:ty),*) $reply:ty;)*) => {
        $(fn $name(&self, _: &Request, $($argument: $type,)* reply: $reply) {
            $(let _ = $argument;)*
            self.0.counters.others.count();
            reply.error(Errno::EROFS);
        })*
    };
}

impl<V: View> fuser::Filesystem for Filesystem<V> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let needed = InitFlags::FUSE_DO_READDIRPLUS;
        config.add_capabilities(needed).map_err(|_| unsupported(OLD_KERNEL))?;
        if self.0.options.passthrough {
            let passthrough = InitFlags::FUSE_PASSTHROUGH;
            config.add_capabilities(passthrough).map_err(|_| unsupported(NO_PASSTHROUGH))?;
            let depth = config.set_max_stack_depth(1);
            depth.map_err(|_| unsupported(NO_PASSTHROUGH))?;
        }
        // What an old kernel does not have only costs it time.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(MAX_READ);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND);
        if let Err(most) = config.set_max_readahead(MAX_READ) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.counters.lookups.count();
        guarded(|| self.0.lookup(parent.0, name.as_bytes(), reply));
    }

    fn forget(&self, _: &Request, ino: INodeNo, references: u64) {
        self.0.counters.forgets.count();
        guarded(|| self.0.table.forget(ino.0, references));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.0.counters.attributes.count();
        guarded(|| match self.0.inode(ino.0) {
            Ok(inode) => reply.attr(&FOREVER, &attributes(ino.0, &inode)),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.0.counters.links.count();
        guarded(|| match self.0.inode(ino.0) {
            Ok(inode) => match inode.target() {
                Some(target) => reply.data(target),
                None => reply.error(Errno::EINVAL),
            },
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.counters.opens.count();
        // The kernel asks once, and then opens files without asking.
        if !self.0.options.passthrough {
            return reply.error(Errno::ENOSYS);
        }
        guarded(|| self.0.open(ino.0, reply));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.counters.releases.count();
        guarded(|| self.0.opened.release(ino.0, handle));
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.counters.reads.count();
        guarded(|| self.0.read(ino.0, offset, size, reply));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.counters.others.count();
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, reply: ReplyDirectory) {
        self.0.counters.listings.count();
        reply.error(Errno::ENOSYS);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.0.counters.listings.count();
        guarded(|| self.0.readdirplus(request.unique(), ino.0, offset, reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.0.counters.others.count();
        // Nothing can be written, and nobody knows what there is.
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.0.counters.xattrs.count();
        guarded(|| {
            let inode = self.0.inode(ino.0);
            let value = inode.and_then(|inode| xattr::value(&inode, self.0.view.name(), name));
            xattr::answer(reply, value, size);
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.0.counters.xattrs.count();
        guarded(|| {
            let names = self.0.inode(ino.0).map(|inode| xattr::names(&inode));
            xattr::answer(reply, names, size);
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.0.counters.others.count();
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.counters.others.count();
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.counters.others.count();
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        self.0.counters.others.count();
        // The kernel then seeks by itself, in files without holes.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.0.counters.others.count();
        reply.error(Errno::ENOTTY);
    }

    // The kernel refuses writes to a read-only mount by itself; these are for one that root has
    // remounted.
    read_only! {
        mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, device: u32) ReplyEntry;
        mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32) ReplyEntry;
        unlink(parent: INodeNo, name: &OsStr) ReplyEmpty;
        rmdir(parent: INodeNo, name: &OsStr) ReplyEmpty;
        symlink(parent: INodeNo, name: &OsStr, target: &Path) ReplyEntry;
        rename(from: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags) ReplyEmpty;
        link(ino: INodeNo, parent: INodeNo, name: &OsStr) ReplyEntry;
        create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32) ReplyCreate;
        write(
            ino: INodeNo, handle: FileHandle, offset: u64, data: &[u8], how: WriteFlags,
            flags: OpenFlags, owner: Option<LockOwner>
        ) ReplyWrite;
        setattr(
            ino: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
            atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>,
            handle: Option<FileHandle>, crtime: Option<SystemTime>, chgtime: Option<SystemTime>,
            bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>
        ) ReplyAttr;
        setxattr(ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32) ReplyEmpty;
        removexattr(ino: INodeNo, name: &OsStr) ReplyEmpty;
        fallocate(ino: INodeNo, handle: FileHandle, offset: u64, length: u64, mode: i32) ReplyEmpty;
        copy_file_range(
            from: INodeNo, source: FileHandle, from_offset: u64, to: INodeNo, target: FileHandle,
            to_offset: u64, length: u64, flags: CopyFileRangeFlags
        ) ReplyWrite;
    }
}

/// How a file is opened whose pages the kernel keeps.
pub const CACHED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
