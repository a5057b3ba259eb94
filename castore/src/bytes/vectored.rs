//! Reading a range of a file into several buffers.

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::io::{Errno, ReadWriteFlags};

use super::Wait;

/// The most buffers one system call takes (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;

/// Fills the buffers one after the other from `offset`; a short file is an error. With [`Wait::No`]
/// only what is in memory is read.
pub fn read(
    file: &File,
    mut offset: u64,
    buffers: &mut [IoSliceMut<'_>],
    wait: Wait,
) -> io::Result<()> {
    let flags = match wait {
        Wait::Yes => ReadWriteFlags::empty(),
        Wait::No => ReadWriteFlags::NOWAIT,
    };
    let mut rest = buffers;
    loop {
        // A read of no bytes would look like the end of the file.
        while rest.first().is_some_and(|buffer| buffer.is_empty()) {
            rest = &mut rest[1..];
        }
        if rest.is_empty() {
            return Ok(());
        }
        let now = rest.len().min(MAX_BUFFERS);
        let read = match rustix::io::preadv2(file, &mut rest[..now], offset, flags) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            // Not every file system can tell what is in memory.
            Err(Errno::OPNOTSUPP) if wait == Wait::No => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Err(error) => return Err(error.into()),
        };
        offset += read as u64;
        IoSliceMut::advance_slices(&mut rest, read);
    }
}
