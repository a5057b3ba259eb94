//! A segment: a pack of its own kind, in which a process keeps what it fetched.
//!
//! Its bytes are those of a pack (docs/pack-format.md), so `zstd -dc` reads it. Only one process writes
//! to a segment, and holds a lock on it while it does; any number read it. What its writer has not
//! sealed is found by hopping from header to header. Nothing is synced and nothing is believed:
//! whoever reads a record checks it against its digest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use castore::pack::format::{START_LEN, TRAILER_LEN, start};
use castore::pack::{Footer, HEADER_LEN, PackId, ROW_LEN, RecordHeader, Row};
use rustix::fs::{FlockOperation, flock};

/// Seconds between two notes that a segment is in use.
const NOTE_EVERY: u64 = 30;
/// What the names of segments end with.
const SUFFIX: &str = ".seg";

/// A segment that is read.
pub(super) struct Segment {
    pub id: PackId,
    pub records: Arc<Records>,
    /// Where what is known of it ends.
    pub known: u64,
    /// Whether it has its footer, after which nothing comes.
    pub sealed: bool,
}

/// The records of a segment.
pub(super) struct Records {
    file: File,
    /// When it was last noted that they are in use, in seconds since 1970.
    noted: AtomicU64,
}

/// The segment that a file is, by its name.
pub(super) fn id_of(name: &str) -> Option<PackId> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

fn place(dir: &Path, id: PackId) -> PathBuf {
    dir.join(format!("{id}{SUFFIX}"))
}

impl Segment {
    /// Opens a segment; nothing of it is known yet. `None` when the file is not one.
    pub fn open(dir: &Path, id: PackId) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(place(dir, id))?;
        let mut head = [0; START_LEN];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) if head == start(id) => {}
            // Its writer may be about to.
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let records = Arc::new(Records { file, noted: AtomicU64::new(0) });
        Ok(Some(Self { id, records, known: START_LEN as u64, sealed: false }))
    }

    /// Tells of the records that have come since it was last asked.
    pub fn grown(&mut self) -> io::Result<Vec<Row>> {
        if self.sealed {
            return Ok(Vec::new());
        }
        let file = &self.records.file;
        let length = file.metadata()?.len();
        if length <= self.known {
            return Ok(Vec::new());
        }
        let first_look = self.known == START_LEN as u64;
        if first_look && let Some(rows) = self.footer(length)? {
            (self.known, self.sealed) = (length, true);
            return Ok(rows);
        }
        let (mut rows, mut head) = (Vec::new(), [0; HEADER_LEN]);
        while self.known + HEADER_LEN as u64 <= length {
            file.read_exact_at(&mut head, self.known)?;
            let Some(header) = RecordHeader::parse(&head) else { break };
            let end = self.known + HEADER_LEN as u64 + u64::from(header.stored);
            let Ok(plain) = u32::try_from(header.plain) else { break };
            if end > length {
                break;
            }
            let RecordHeader { kind, digest, stored, .. } = header;
            rows.push(Row { digest, kind, pack: 0, offset: self.known, stored, plain });
            self.known = end;
        }
        Ok(rows)
    }

    fn footer(&self, length: u64) -> io::Result<Option<Vec<Row>>> {
        let file = &self.records.file;
        let mut trailer = [0; TRAILER_LEN];
        if length < (START_LEN + TRAILER_LEN) as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut trailer, length - TRAILER_LEN as u64)?;
        let Some(footer) = Footer::parse(&trailer, length) else { return Ok(None) };
        let mut bytes = vec![0; footer.rows as usize * ROW_LEN];
        file.read_exact_at(&mut bytes, footer.rows_at)?;
        if !footer.matches(&bytes) {
            return Ok(None);
        }
        Ok(bytes.chunks(ROW_LEN).map(Row::parse).collect())
    }
}

impl Records {
    /// Appends the record's data frames to `out`; an error also when another record lies there.
    pub fn read(&self, header: &HeaderAt, out: &mut Vec<u8>) -> io::Result<RecordHeader> {
        let mut record = vec![0; HEADER_LEN + header.stored as usize];
        self.file.read_exact_at(&mut record, header.offset)?;
        let found = RecordHeader::parse(&record).filter(|found| found.stored == header.stored);
        let found = found.ok_or(io::ErrorKind::InvalidData)?;
        out.extend_from_slice(&record[HEADER_LEN..]);
        self.note_use();
        Ok(found)
    }

    /// Its time of change says when it was last of use.
    fn note_use(&self) {
        let now = SystemTime::now();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        if self.noted.load(Ordering::Relaxed) + NOTE_EVERY <= seconds {
            self.noted.store(seconds, Ordering::Relaxed);
            // At worst it is dropped a little early.
            let _ = self.file.set_modified(now);
        }
    }
}

/// Where a record lies in a segment.
#[derive(Clone, Copy)]
pub(super) struct HeaderAt {
    pub offset: u64,
    pub stored: u32,
}

/// A segment that is written.
pub(super) struct Writer {
    pub id: PackId,
    file: File,
    end: u64,
    rows: Vec<Row>,
}

impl Writer {
    /// Begins a segment.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let id = PackId::random()?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600);
        let file = file.open(place(dir, id))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        if let Err(error) = file.write_all_at(&start(id), 0) {
            remove(dir, id);
            return Err(error);
        }
        Ok(Self { id, file, end: START_LEN as u64, rows: Vec::new() })
    }

    /// Goes on with a segment that its writer left behind; `None` while it has one, or when it has
    /// its footer.
    pub fn resume(dir: &Path, id: PackId) -> io::Result<Option<Self>> {
        let Some(mut segment) = Segment::open(dir, id)? else { return Ok(None) };
        if flock(&segment.records.file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let rows = segment.grown()?;
        // Whoever made room may have been quicker with the lock.
        if segment.sealed || segment.records.file.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        // The lock belongs to the open file, which the clone shares.
        let file = segment.records.file.try_clone()?;
        file.set_len(segment.known)?;
        Ok(Some(Self { id, file, end: segment.known, rows }))
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.end
    }

    /// Appends records, one behind the other; where each of them lies from now on. What could not
    /// be written whole is taken back.
    pub fn append(&mut self, records: &[u8]) -> io::Result<Vec<Row>> {
        let before = self.rows.len();
        let mut at = 0;
        while let Some(header) = records.get(at..).and_then(RecordHeader::parse) {
            let plain = u32::try_from(header.plain).map_err(|_| io::ErrorKind::InvalidInput)?;
            let RecordHeader { kind, digest, stored, .. } = header;
            let offset = self.end + at as u64;
            self.rows.push(Row { digest, kind, pack: 0, offset, stored, plain });
            at += HEADER_LEN + stored as usize;
        }
        let written = self.file.write_all_at(records, self.end);
        if written.is_err() {
            self.rows.truncate(before);
            self.file.set_len(self.end)?;
        }
        written?;
        self.end += records.len() as u64;
        Ok(self.rows[before..].to_vec())
    }

    /// Adds the footer. The lock goes with the file.
    pub fn seal(mut self) -> io::Result<()> {
        self.rows.sort_by_key(Row::key);
        let mut rows = Vec::with_capacity(self.rows.len() * ROW_LEN);
        self.rows.iter().for_each(|row| row.append(&mut rows));
        let mut footer = Vec::new();
        Footer::append(&mut footer, self.end, &rows, 0, 0).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all_at(&footer, self.end)
    }
}

/// Removes a segment, unless somebody writes to it. Whether it is gone.
pub(super) fn remove_unused(dir: &Path, id: PackId) -> bool {
    let file = match File::open(place(dir, id)) {
        Ok(file) => file,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && remove(dir, id)
}

fn remove(dir: &Path, id: PackId) -> bool {
    std::fs::remove_file(place(dir, id)).is_ok()
}
