//! System calls as tests want them.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: FileType,
    /// Where to seek to for what comes behind it.
    pub next: i64,
}

/// A directory's entries from a position on.
pub fn list(directory: &Path, from: i64) -> Result<Vec<Seen>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    let mut directory = rustix::fs::Dir::new(directory)?;
    if from > 0 {
        directory.seek(from)?;
    }
    let mut seen = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        seen.push(Seen { name, ino: entry.ino(), kind: entry.file_type(), next: entry.offset() });
    }
    Ok(seen)
}

/// An extended attribute, of a symlink itself if it is one.
pub fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// The names of all extended attributes.
pub fn xattrs(path: &Path) -> Result<Vec<String>, Errno> {
    let mut names = vec![0; 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect())
}

/// A file's bytes, as they are mapped.
#[allow(unsafe_code)]
pub fn mapped(file: &File) -> Result<Vec<u8>, Errno> {
    let length = file.metadata().unwrap().len() as usize;
    if length == 0 {
        return Ok(Vec::new());
    }
    let null = std::ptr::null_mut();
    // SAFETY: a new private mapping, of which nobody else knows and which is as long as the file;
    // the file does not change, since the mount is read-only. It is unmapped once it is copied.
    unsafe {
        let at = rustix::mm::mmap(null, length, ProtFlags::READ, MapFlags::PRIVATE, file, 0)?;
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), length).to_vec();
        rustix::mm::munmap(at, length)?;
        Ok(bytes)
    }
}
