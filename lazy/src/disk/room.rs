//! Making room: what was not used for the longest time goes first.
//!
//! Narinfos are small, many, and what a mount without its source begins with: they have a share of
//! their own, and do not go because chunks were used more lately.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use castore::pack::PackId;
use rustix::fs::{FlockOperation, flock};

use super::{DiskCache, segment};

/// Room is made for this part of the limit more than is needed, so that it is not made all the time.
const SPARE: u64 = 32;
/// Narinfos take this part of the limit at most.
const INFOS: u64 = 16;

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
        self.throw_out(|_| self.limit);
    }

    /// The disk is full before the cache is: throws out a little, so that what is used now finds room.
    /// Blocks.
    pub(crate) fn give_way(&self) {
        self.throw_out(|total| total.saturating_sub(1).min(self.limit));
    }

    fn throw_out(&self, bound: impl FnOnce(u64) -> u64) {
        match self.try_throw_out(bound) {
            // Nothing is there that could be too much.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, cache = %self.dir.display(), "no room could be made in the cache");
            }
            Ok(()) => {}
        }
    }

    /// Throws out until what is there, in all, is within what `bound` says.
    fn try_throw_out(&self, bound: impl FnOnce(u64) -> u64) -> io::Result<()> {
        let mut options = File::options();
        let guard = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join("lock"))?;
        if flock(&guard, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let mut infos = Vec::new();
        for source in fs::read_dir(self.dir.join("infos"))? {
            add_candidates(&source?.path(), &mut infos)?;
        }
        let infos = self.throw_out_oldest(infos, self.limit / INFOS);
        let mut others = Vec::new();
        add_candidates(&self.segments_dir(), &mut others)?;
        add_candidates(&self.dir.join("files"), &mut others)?;
        let total = infos + others.iter().map(|candidate| candidate.length).sum::<u64>();
        self.throw_out_oldest(others, bound(total).saturating_sub(infos));
        self.look_again()
    }

    /// Throws out until what is left is within `limit`. What is left.
    fn throw_out_oldest(&self, mut candidates: Vec<Candidate>, limit: u64) -> u64 {
        let mut total: u64 = candidates.iter().map(|candidate| candidate.length).sum();
        if total <= limit {
            return total;
        }
        candidates.sort_by_key(|candidate| candidate.used);
        for candidate in candidates {
            if total <= limit - limit / SPARE {
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
        total
    }
}

fn add_candidates(dir: &Path, candidates: &mut Vec<Candidate>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Another process may be quicker.
        let Ok(meta) = entry.metadata() else { continue };
        let id = entry.file_name().to_str().and_then(segment::id_of);
        let what = id.map_or_else(|| What::File(entry.path()), What::Segment);
        // Small files take whole blocks.
        let length = meta.len().max(meta.blocks() * 512);
        candidates.push(Candidate { used: meta.modified()?, length, what });
    }
    Ok(())
}
