//! Making room: what was not used for the longest time goes first.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use castore::pack::PackId;
use rustix::fs::{FlockOperation, flock};

use super::{DiskCache, segment};

/// Room is made for this part of the limit more than is needed, so that it is not made all the time.
const SPARE: u64 = 32;

/// Something that can go.
struct Candidate {
    used: SystemTime,
    length: u64,
    what: What,
}

enum What {
    Segment(PackId),
    File(PathBuf),
}

impl DiskCache {
    /// Throws out what has not been used lately, until the cache is within its bound. Does nothing
    /// while another process does it. Blocks.
    pub(super) fn make_room(&self) {
        if let Err(error) = self.try_make_room() {
            tracing::warn!(%error, cache = %self.dir.display(), "no room could be made in the cache");
        }
    }

    fn try_make_room(&self) -> io::Result<()> {
        let mut options = File::options();
        let guard = options.write(true).create(true).truncate(false).open(self.dir.join("lock"))?;
        if flock(&guard, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let mut candidates = self.candidates()?;
        let mut total: u64 = candidates.iter().map(|candidate| candidate.length).sum();
        if total <= self.limit {
            return Ok(());
        }
        candidates.sort_by_key(|candidate| candidate.used);
        for candidate in candidates {
            if total <= self.limit - self.limit / SPARE {
                break;
            }
            let gone = match candidate.what {
                What::Segment(id) => segment::remove_unused(&self.segments_dir(), id),
                What::File(path) => fs::remove_file(path).is_ok(),
            };
            if gone {
                total -= candidate.length;
            }
        }
        self.look_again()
    }

    fn candidates(&self) -> io::Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        for below in ["segments", "files"] {
            for entry in fs::read_dir(self.dir.join(below))? {
                let entry = entry?;
                // Another process may be quicker.
                let Ok(meta) = entry.metadata() else { continue };
                let id = entry.file_name().to_str().and_then(segment::id_of);
                let what = id.map_or_else(|| What::File(entry.path()), What::Segment);
                candidates.push(Candidate { used: meta.modified()?, length: meta.len(), what });
            }
        }
        Ok(candidates)
    }
}
