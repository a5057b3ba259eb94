//! The cache on this machine's disk: records of chunks, chunk lists and trees under their digests.
//!
//! ```text
//! DIR/segments/<id>.seg         records, see `segment`
//! DIR/infos/<source>/<hash>     narinfos, see `infos`
//! DIR/files/<digest>            whole files, see `files`
//! DIR/lock                      held by whoever makes room
//! ```
//!
//! Any number of processes share it. It is bounded; what was not used for the longest time goes
//! first, a segment or a file at a time. It is a cache: a full or failing disk costs time, never
//! an answer, and what is damaged is forgotten and fetched again.

mod files;
mod infos;
mod room;
mod segment;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use castore::pack::{HEADER_LEN, PackId, Row};
use castore::{Digest, Kind};

use crate::record;
use files::OpenFile;
use segment::{HeaderAt, Segment, Writer};

pub(crate) use files::NewFile;
pub use infos::Infos;
pub(crate) use infos::Verified;

/// A cache is made of about so many segments.
const SEGMENTS: u64 = 128;
const SEGMENT_SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// Whole files that are held open, and not checked again meanwhile.
const OPEN_FILES: usize = 256;
/// A disk that failed is left alone for so long.
const PAUSE: Duration = Duration::from_secs(10);
/// What other processes did is looked for this often at most: it takes a listing of a directory.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a cache cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the cache directory {} cannot be used: {source}", path.display())]
pub struct DiskError {
    path: PathBuf,
    source: io::Error,
}

/// What is kept on disk.
pub struct DiskCache {
    dir: PathBuf,
    limit: u64,
    segment_size: u64,
    index: RwLock<Index>,
    writer: Mutex<Option<Writer>>,
    failing_until: Mutex<Option<Instant>>,
    /// Whether it was said that the disk fails.
    complained: AtomicBool,
    /// When it was last looked for what other processes did.
    looked: Mutex<Instant>,
    /// Whole files that were checked and are used lately.
    open_files: quick_cache::sync::Cache<Digest, OpenFile>,
    /// Records that were not what their digest says.
    damaged: AtomicU64,
    /// Sets temporary files apart: from those of other processes, also of those that have the same
    /// number in another container, and from each other.
    own: PackId,
    count: AtomicU64,
}

#[derive(Default)]
struct Index {
    places: HashMap<u128, Place>,
    segments: Vec<Option<Segment>>,
    slots: HashMap<PackId, u32>,
}

#[derive(Clone, Copy)]
struct Place {
    slot: u32,
    at: HeaderAt,
}

/// Half a digest is enough to look for: what is found is checked.
fn key(kind: Kind, digest: &Digest) -> u128 {
    let half = digest.as_bytes().first_chunk::<16>();
    half.map_or(0, |half| u128::from_le_bytes(*half)) ^ kind as u128
}

impl DiskCache {
    /// Opens the cache in a directory, which is made if need be. It will hold `limit` bytes. Blocks.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, DiskError> {
        let failed = |source| DiskError { path: dir.to_owned(), source };
        make_dirs(dir).map_err(failed)?;
        for below in ["", "segments", "infos", "files"] {
            check_owner(&dir.join(below)).map_err(failed)?;
        }
        let segment_size = (limit / SEGMENTS).clamp(*SEGMENT_SIZES.start(), *SEGMENT_SIZES.end());
        let cache = Self {
            dir: dir.to_owned(),
            limit,
            segment_size,
            index: RwLock::default(),
            writer: Mutex::default(),
            failing_until: Mutex::default(),
            complained: AtomicBool::new(false),
            looked: Mutex::new(Instant::now()),
            open_files: quick_cache::sync::Cache::new(OPEN_FILES),
            damaged: AtomicU64::new(0),
            own: PackId::random().map_err(failed)?,
            count: AtomicU64::new(0),
        };
        cache.look_again().map_err(failed)?;
        cache.make_room();
        Ok(cache)
    }

    fn temporary_name(&self) -> String {
        format!(".{}-{}", self.own, self.count.fetch_add(1, Ordering::Relaxed))
    }

    fn segments_dir(&self) -> PathBuf {
        self.dir.join("segments")
    }

    /// Finds what other processes have put in or thrown out. Blocks.
    pub fn look_again(&self) -> io::Result<()> {
        self.close_thrown_out();
        let dir = self.segments_dir();
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            found.extend(entry?.file_name().to_str().and_then(segment::id_of));
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.forget_others(&found);
        for id in found {
            // One that is gone already, or not begun yet, is nothing to report.
            if let Err(error) = index.look_at(&dir, id)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::debug!(%error, segment = %id, "a segment of the cache was skipped");
            }
        }
        Ok(())
    }

    /// Whether it is time to look again, which whoever is told so has to do.
    pub(crate) fn should_look(&self) -> bool {
        let mut looked = lock(&self.looked);
        let due = looked.elapsed() >= LOOK_EVERY;
        if due {
            *looked = Instant::now();
        }
        due
    }

    /// Whether a record seems to be there.
    pub fn has(&self, kind: Kind, digest: &Digest) -> bool {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.places.contains_key(&key(kind, digest))
    }

    /// The plain bytes of a record, checked against its digest. Blocks for the disk and to decode.
    pub fn get(&self, kind: Kind, digest: &Digest) -> Option<Vec<u8>> {
        let (place, records) = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let place = *index.places.get(&key(kind, digest))?;
            (place, index.segments.get(place.slot as usize)?.as_ref()?.records.clone())
        };
        let mut frames = Vec::new();
        let header = records.read(&place.at, &mut frames);
        let plain = header.and_then(|header| {
            if header.digest != *digest || header.kind != kind {
                return Err(io::Error::other("another record lies in its place"));
            }
            record::decode(&header, &frames)
        });
        match plain {
            Ok(plain) => Some(plain),
            Err(error) => {
                self.forget(kind, digest);
                tracing::warn!(
                    %error, ?kind, %digest, cache = %self.dir.display(),
                    "a damaged record of the cache is dropped, and will be fetched again"
                );
                None
            }
        }
    }

    /// A record turned out to be damaged.
    fn forget(&self, kind: Kind, digest: &Digest) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.places.remove(&key(kind, digest));
    }

    /// How many records were damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Keeps records that have been checked, one behind the other. When that fails it is in the log,
    /// and they are not kept. Blocks.
    pub fn put(&self, records: &[u8]) {
        if records.is_empty() || self.is_failing() {
            return;
        }
        let mut put = self.try_put(records);
        if let Err(error) = &put
            && matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        {
            self.complain(error);
            self.give_way();
            put = self.try_put(records);
        }
        match put {
            Ok(true) => self.make_room(),
            Ok(false) => {}
            Err(error) => self.failed(&error),
        }
    }

    /// Whether a segment is full. After an error it goes on with another: the file may be gone.
    fn try_put(&self, records: &[u8]) -> io::Result<bool> {
        let appended = self.append(records);
        if appended.is_err() {
            drop(lock(&self.writer).take());
        }
        appended
    }

    fn append(&self, records: &[u8]) -> io::Result<bool> {
        let mut writer = lock(&self.writer);
        let current = match writer.take() {
            Some(current) => current,
            None => self.next_writer()?,
        };
        let current = writer.insert(current);
        let rows = current.append(records)?;
        let (id, full) = (current.id, current.length() >= self.segment_size);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.add(&self.segments_dir(), id, &rows)?;
        if full && let Some(writer) = writer.take() {
            index.seal(id);
            drop(index);
            // The next one may be begun meanwhile.
            writer.seal()?;
        }
        Ok(full)
    }

    /// A segment that was left behind, or a new one.
    fn next_writer(&self) -> io::Result<Writer> {
        let dir = self.segments_dir();
        let unsealed = self.index.read().unwrap_or_else(PoisonError::into_inner).unsealed();
        for id in unsealed {
            if let Ok(Some(writer)) = Writer::resume(&dir, id)
                && writer.length() < self.segment_size
            {
                return Ok(writer);
            }
        }
        Writer::create(&dir).or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            // Somebody has removed the cache to save space.
            make_dirs(&self.dir)?;
            Writer::create(&dir)
        })
    }

    fn is_failing(&self) -> bool {
        lock(&self.failing_until).is_some_and(|until| Instant::now() < until)
    }

    fn failed(&self, error: &io::Error) {
        self.complain(error);
        *lock(&self.failing_until) = Some(Instant::now() + PAUSE);
    }

    /// Says once that something is wrong with the disk.
    fn complain(&self, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error, cache = %self.dir.display(),
                "the cache cannot be written to: reading goes on, and fetches more than it would"
            );
        }
    }
}

impl Index {
    fn look_at(&mut self, dir: &Path, id: PackId) -> io::Result<()> {
        let slot = match self.slots.get(&id) {
            Some(slot) => *slot,
            None => match Segment::open(dir, id)? {
                Some(segment) => self.add_segment(segment),
                None => return Ok(()),
            },
        };
        let Some(Some(segment)) = self.segments.get_mut(slot as usize) else { return Ok(()) };
        let rows = segment.grown()?;
        self.add_rows(slot, &rows);
        Ok(())
    }

    fn add_segment(&mut self, segment: Segment) -> u32 {
        let (slot, id) = (self.segments.len() as u32, segment.id);
        self.segments.push(Some(segment));
        self.slots.insert(id, slot);
        slot
    }

    fn add_rows(&mut self, slot: u32, rows: &[Row]) {
        for row in rows {
            let at = HeaderAt { offset: row.offset, stored: row.stored };
            self.places.insert(key(row.kind, &row.digest), Place { slot, at });
        }
    }

    /// Records that this process has written.
    fn add(&mut self, dir: &Path, id: PackId, rows: &[Row]) -> io::Result<()> {
        let Some(slot) = self.slots.get(&id).copied() else { return self.look_at(dir, id) };
        self.add_rows(slot, rows);
        if let (Some(Some(segment)), Some(last)) =
            (self.segments.get_mut(slot as usize), rows.last())
        {
            segment.known = last.offset + HEADER_LEN as u64 + u64::from(last.stored);
        }
        Ok(())
    }

    /// A segment of ours will not grow any more.
    fn seal(&mut self, id: PackId) {
        let slot = self.slots.get(&id).map(|slot| *slot as usize);
        if let Some(Some(segment)) = slot.and_then(|slot| self.segments.get_mut(slot)) {
            segment.sealed = true;
        }
    }

    /// Drops the segments that are not there any more.
    fn forget_others(&mut self, found: &[PackId]) {
        let found: HashSet<&PackId> = found.iter().collect();
        let gone: Vec<(PackId, u32)> = self
            .slots
            .iter()
            .filter(|(id, _)| !found.contains(id))
            .map(|(id, slot)| (*id, *slot))
            .collect();
        if gone.is_empty() {
            return;
        }
        for (id, slot) in &gone {
            self.slots.remove(id);
            self.segments[*slot as usize] = None;
        }
        let segments = &self.segments;
        self.places.retain(|_, place| segments[place.slot as usize].is_some());
    }

    fn unsealed(&self) -> Vec<PackId> {
        let segments = self.segments.iter().flatten();
        segments.filter(|segment| !segment.sealed).map(|segment| segment.id).collect()
    }
}

fn make_dirs(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    ["segments", "infos", "files"].iter().try_for_each(|below| builder.create(dir.join(below)))
}

/// What lies in the cache is taken from ourselves, so nobody else may put anything there.
fn check_owner(dir: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(dir)?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = format!("{} belongs to others, or others may write to it", dir.display());
    Err(io::Error::new(ErrorKind::PermissionDenied, why))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
