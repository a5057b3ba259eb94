//! The top level of the mount: one entry for each store path, listed without fetching its tree.
//!
//! Paths keep the number under which they were seen first, so the offsets of a listing stay true
//! while paths appear behind it. What a path is, a directory or a file or a symlink, is not known
//! before its tree is; its entry says so (`DT_UNKNOWN`) and carries no attributes. fuser cannot
//! say either, so these listings are encoded here: `fuse_out_header`, then for each entry a
//! `fuse_direntplus` whose `fuse_entry_out` is all zero but for the `fuse_dirent` in it, padded to
//! 8 bytes, in the machine's byte order. Source: include/uapi/linux/fuse.h.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::{FileType, RequestId};
use nix_compat::store_path::{StorePath, StorePathHash};

use crate::table::Table;

/// The paths that were listed or looked up.
#[derive(Debug, Default)]
pub struct Top(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    /// The paths with their inode numbers.
    paths: Vec<(StorePath, u64)>,
    numbers: HashMap<StorePathHash, u32>,
}

impl Top {
    fn places(&self) -> MutexGuard<'_, Places> {
        // Nothing here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry number and the inode number of a path.
    pub fn place(&self, path: &StorePath, table: &Table) -> (u32, u64) {
        let mut places = self.places();
        let index = places.add(path, table);
        (index, places.paths[index as usize].1)
    }

    /// Takes note of a listing.
    pub fn add(&self, paths: &[StorePath], table: &Table) {
        let mut places = self.places();
        for path in paths {
            places.add(path, table);
        }
    }

    /// Names and inode numbers from an entry on, until `each` has enough.
    pub fn list(&self, from: usize, mut each: impl FnMut(usize, &str, u64) -> bool) {
        let places = self.places();
        for (index, (path, ino)) in places.paths.iter().enumerate().skip(from) {
            if each(index, &path.to_string(), *ino) {
                break;
            }
        }
    }
}

impl Places {
    fn add(&mut self, path: &StorePath, table: &Table) -> u32 {
        let next = self.paths.len() as u32;
        match self.numbers.entry(path.hash()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                vacant.insert(next);
                self.paths.push((path.clone(), table.reserve()));
                next
            }
        }
    }
}

/// A piece of a listing, being encoded.
pub struct Listing(Vec<u8>);

const HEADER: usize = 16;
const ENTRY_OUT: usize = 128;

impl Listing {
    /// An empty piece, which ends a listing.
    pub fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// Adds an entry; the next one is asked for by `offset`.
    pub fn add(&mut self, name: &[u8], ino: u64, offset: u64, kind: Option<FileType>) {
        let kind: u32 = match kind {
            Some(FileType::Directory) => 4,
            Some(FileType::RegularFile) => 8,
            Some(FileType::Symlink) => 10,
            _ => 0,
        };
        self.0.resize(self.0.len() + ENTRY_OUT, 0);
        self.0.extend_from_slice(&ino.to_ne_bytes());
        self.0.extend_from_slice(&offset.to_ne_bytes());
        self.0.extend_from_slice(&(name.len() as u32).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(name);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    /// Sends it as the answer to a request.
    pub fn send(mut self, device: &File, request: RequestId) -> io::Result<()> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..HEADER].copy_from_slice(&request.0.to_ne_bytes());
        (&mut &*device).write_all(&self.0)
    }
}
