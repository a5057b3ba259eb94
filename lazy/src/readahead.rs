//! What is likely to be read next.
//!
//! Two patterns are told apart. A file that is read on where the last read ended is read
//! sequentially: the window in front of the reader doubles with every read, up to a bound. A file
//! that was not on this machine is one of many that a program reads: its neighbours in the path are
//! fetched along with it, the more of them, the more such misses there were and the longer an
//! answer takes to come, because then bytes are cheaper than questions.

use castore::Digest;
use castore::tree::ChunkRef;
use nix_compat::store_path::StorePathHash;

use crate::view::{FileRef, LazyPath};

/// The window of a sequential reader, in bytes.
const FIRST_WINDOW: u64 = 256 * 1024;
const LAST_WINDOW: u64 = 8 * 1024 * 1024;
/// What comes along with a first miss in a path: so many bytes for each millisecond that an answer
/// takes, within bounds.
const BYTES_PER_MS: u64 = 16 * 1024;
const LEAST_NEIGHBOURS: u64 = 16 * 1024;
const MOST_NEIGHBOURS: u64 = 4 * 1024 * 1024;
/// Each miss in the path makes it this many times as much.
const GROWTH: u64 = 2;
const MOST_DOUBLINGS: u32 = 3;

/// Files and paths whose pattern is remembered.
const REMEMBERED: usize = 4096;

/// The patterns of what is read.
pub(crate) struct ReadAhead {
    files: quick_cache::sync::Cache<Digest, Stream>,
    misses: quick_cache::sync::Cache<StorePathHash, u32>,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    /// Where the last read ended.
    end: u64,
    window: u64,
}

impl ReadAhead {
    pub fn new() -> Self {
        let files = quick_cache::sync::Cache::new(REMEMBERED);
        Self { files, misses: quick_cache::sync::Cache::new(REMEMBERED) }
    }

    /// The chunks that a sequential reader of the file wants next, after a read of
    /// `offset..end`.
    pub fn of_file<'c>(
        &self,
        file: &FileRef,
        chunks: &'c [ChunkRef],
        offset: u64,
        end: u64,
    ) -> impl Iterator<Item = &'c ChunkRef> {
        let mut window = 0;
        if chunks.len() > 1 {
            let last = self.files.get(&file.digest);
            // The kernel asks for several pieces of a window at once, in any order.
            let near = |last: &Stream| {
                offset <= last.end + FIRST_WINDOW && end + 2 * FIRST_WINDOW >= last.end
            };
            window = match last {
                Some(last) if near(&last) && end > last.end => {
                    (last.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW)
                }
                Some(last) if near(&last) => last.window,
                Some(_) => 0,
                None if offset == 0 => FIRST_WINDOW,
                None => 0,
            };
            self.files.insert(file.digest, Stream { end, window });
        }
        let mut at = 0;
        chunks.iter().filter(move |chunk| {
            let begins = at;
            at += u64::from(chunk.size);
            begins >= end && begins < end + window
        })
    }

    /// The neighbours of a chunk that was missed, when answers take `round_trip` microseconds.
    pub fn neighbours<'p>(
        &self,
        path: &'p LazyPath,
        missed: &Digest,
        round_trip: u64,
    ) -> impl Iterator<Item = (Digest, u32)> + use<'p> {
        let hash = path.info.store_path.hash();
        let misses = self.misses.get(&hash).unwrap_or(0);
        self.misses.insert(hash, misses + 1);
        let base = (round_trip * BYTES_PER_MS / 1000).max(LEAST_NEIGHBOURS);
        let mut room = (base * GROWTH.pow(misses.min(MOST_DOUBLINGS))).min(MOST_NEIGHBOURS);
        path.order().behind(missed).iter().copied().take_while(move |(_, size)| {
            let fits = room >= u64::from(*size);
            room = room.saturating_sub(u64::from(*size));
            fits
        })
    }
}
