//! Segments: sorted tables of rows, in a pack's footer or in a file of their own.
//!
//! ```text
//! segment file = row* pack-id* sample* filter-word* trailer
//! trailer      = "GRANSEG1" rows(8) packs(8) samples(8) words(8) checksum(8)    little-endian
//! sample       = the first 8 bytes of every 64th row's digest, as an integer
//! ```
//!
//! The checksum is XXH3-64 over all that stands between the rows and the trailer. The rows
//! themselves are a copy of rows in footers; a row that lies is found out when its record's header
//! is read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Location;
use super::filter::Filter;
use crate::Digest;
use crate::durable::sync_dir;
use crate::pack::{Kind, PackId, ROW_LEN, Row, checksum};
use crate::packs::{Packs, Standing};

/// One key in this many is held in memory; a lookup reads this many rows (3.3 KiB).
const SAMPLE_EVERY: u64 = 64;
/// Rows that a merge reads at once, per segment.
const MERGE_ROWS: u64 = 4096;
const TAG: &[u8; 8] = b"GRANSEG1";
const TRAILER: usize = 48;

/// Where the rows lie.
enum Rows {
    /// In the footer of the pack in that slot.
    Footer(u32),
    /// In a segment file.
    File(File),
    /// In memory, on their way to a file, or because there is no room for one.
    Memory(Vec<u8>),
}

/// A sorted table of rows on disk, with its filter and samples in memory.
pub struct Segment {
    rows: Rows,
    rows_at: u64,
    count: u64,
    /// The slot of each pack in the table; `None` for one that is gone.
    packs: Vec<Option<u32>>,
    samples: Vec<u64>,
    filter: Filter,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Segment {
    /// The segment that a sealed pack's footer is. `rows` are the footer's, sorted.
    pub fn of_footer(slot: u32, rows_at: u64, rows: &[Row]) -> Self {
        Self::of(Rows::Footer(slot), slot, rows_at, rows)
    }

    /// The same in memory, to be merged into a file.
    pub fn of_rows(slot: u32, rows: &[Row]) -> Self {
        let mut encoded = Vec::with_capacity(rows.len() * ROW_LEN);
        rows.iter().for_each(|row| row.append(&mut encoded));
        Self::of(Rows::Memory(encoded), slot, 0, rows)
    }

    fn of(place: Rows, slot: u32, rows_at: u64, rows: &[Row]) -> Self {
        let mut filter = Filter::for_keys(rows.len());
        for row in rows {
            filter.insert(&row.digest, row.kind);
        }
        let samples = rows.iter().step_by(SAMPLE_EVERY as usize).map(|row| row.digest.prefix());
        Self {
            rows: place,
            rows_at,
            count: rows.len() as u64,
            packs: vec![Some(slot)],
            samples: samples.collect(),
            filter,
        }
    }

    /// Number of rows.
    pub fn row_count(&self) -> u64 {
        self.count
    }

    /// The slots of the packs whose rows are in here.
    pub fn packs(&self) -> impl Iterator<Item = u32> {
        self.packs.iter().flatten().copied()
    }

    /// The slot of the pack whose footer this is.
    pub fn footer_of(&self) -> Option<u32> {
        match self.rows {
            Rows::Footer(slot) => Some(slot),
            Rows::File(_) | Rows::Memory(_) => None,
        }
    }

    /// Gives every row to `each`, with the slot of the pack it lies in, in order.
    pub fn each_row(
        &self,
        packs: &Packs,
        each: &mut dyn FnMut(&Digest, &Location),
    ) -> io::Result<()> {
        let mut cursor = Cursor::new(self);
        while let Some(row) = cursor.peek(packs)? {
            cursor.next += 1;
            if let Some(location) = self.location(&row) {
                each(&row.digest, &location);
            }
        }
        Ok(())
    }

    fn read(&self, packs: &Packs, first: u64, count: u64) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; count as usize * ROW_LEN];
        let at = self.rows_at + first * ROW_LEN as u64;
        match &self.rows {
            Rows::Footer(slot) => packs.get(*slot)?.read_at(at, &mut buffer)?,
            Rows::File(file) => file.read_exact_at(&mut buffer, at)?,
            Rows::Memory(rows) => {
                let from = at as usize;
                let found = rows.get(from..from + buffer.len());
                buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
        }
        Ok(buffer)
    }

    fn location(&self, row: &Row) -> Option<Location> {
        let slot = (*self.packs.get(row.pack as usize)?)?;
        Some(Location {
            pack: slot,
            kind: row.kind,
            offset: row.offset,
            stored: row.stored,
            plain: row.plain,
        })
    }

    /// Where the record lies, if this segment knows a place of it that is accepted.
    pub fn find(
        &self,
        packs: &Packs,
        digest: &Digest,
        kind: Kind,
        accept: &dyn Fn(&Location) -> bool,
    ) -> io::Result<Option<Location>> {
        if !self.filter.may_contain(digest, kind) {
            return Ok(None);
        }
        // Equal prefixes may span samples: start one before the first that is not smaller.
        let sample = self.samples.partition_point(|&sample| sample < digest.prefix());
        let mut first = (sample.saturating_sub(1) as u64) * SAMPLE_EVERY;
        while first < self.count {
            let block = self.read(packs, first, SAMPLE_EVERY.min(self.count - first))?;
            let count = block.len() / ROW_LEN;
            let key = |at: usize| {
                let row = &block[at * ROW_LEN..];
                (&row[..Digest::LEN], row[Digest::LEN])
            };
            let wanted = (&digest.as_bytes()[..], kind as u8);
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = (low + high) / 2;
                if key(middle) < wanted { low = middle + 1 } else { high = middle }
            }
            // The same key may have several rows: a compacted pack and the one it replaces.
            for at in low..count {
                if key(at) != wanted {
                    return Ok(None);
                }
                let row = Row::parse(&block[at * ROW_LEN..(at + 1) * ROW_LEN])
                    .ok_or_else(|| invalid("a row of a segment is damaged"))?;
                if let Some(location) = self.location(&row).filter(accept) {
                    return Ok(Some(location));
                }
            }
            first += SAMPLE_EVERY;
        }
        Ok(None)
    }

    /// Opens a segment file.
    pub fn open(path: &Path, packs: &Packs) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let tail_at = len.checked_sub(TRAILER as u64).ok_or_else(|| invalid("too short"))?;
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, tail_at)?;
        let number = |at: usize| {
            trailer[8 * at..8 * at + 8].iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte))
        };
        let (rows, ids, samples, words) = (number(1), number(2), number(3), number(4));
        let lengths = [(rows, ROW_LEN as u64), (ids, PackId::LEN as u64), (samples, 8), (words, 8)];
        let total = lengths
            .iter()
            .try_fold(TRAILER as u64, |sum, (n, each)| sum.checked_add(n.checked_mul(*each)?));
        if &trailer[..8] != TAG || total != Some(len) {
            return Err(invalid("not a segment, or cut short"));
        }
        let rows_end = rows * ROW_LEN as u64;
        let mut tables = vec![0; (tail_at - rows_end) as usize];
        file.read_exact_at(&mut tables, rows_end)?;
        if checksum(&tables) != number(5) {
            return Err(invalid("its checksum does not match"));
        }
        let (table, rest) = tables.split_at(ids as usize * PackId::LEN);
        let slots = table.chunks_exact(PackId::LEN).map(|id| {
            let mut bytes = [0; PackId::LEN];
            bytes.copy_from_slice(id);
            packs.slot_of(PackId::from_bytes(bytes))
        });
        let word =
            |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        let mut numbers = rest.chunks_exact(8).map(word);
        let packs = slots.collect();
        let samples = numbers.by_ref().take(samples as usize).collect();
        let filter =
            Filter::from_words(numbers.collect()).ok_or_else(|| invalid("it has no filter"))?;
        Ok(Self { rows: Rows::File(file), rows_at: 0, count: rows, packs, samples, filter })
    }

    /// Merges segments into a new file at `path`, leaving out rows of packs that are gone. After an error
    /// there is no such file.
    pub fn merge(parts: &[Arc<Segment>], path: &Path, packs: &Packs) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let merged = Self::write(parts, &temporary, packs).and_then(|()| {
            std::fs::rename(&temporary, path)?;
            sync_dir(path.parent().unwrap_or(Path::new(".")))?;
            Self::open(path, packs)
        });
        if merged.is_err() {
            // On a full disk it is what there is no room for.
            let _ = std::fs::remove_file(&temporary);
            let _ = std::fs::remove_file(path);
        }
        merged
    }

    fn write(parts: &[Arc<Segment>], path: &Path, packs: &Packs) -> io::Result<()> {
        let mut slots: Vec<u32> = parts.iter().flat_map(|part| part.packs()).collect();
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| packs.standing(*slot) != Standing::Gone);
        let mut filter =
            Filter::for_keys(parts.iter().map(|part| part.count as usize).sum::<usize>());
        let (mut samples, mut count) = (Vec::new(), 0u64);
        let mut cursors: Vec<Cursor<'_>> = parts.iter().map(|part| Cursor::new(part)).collect();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut encoded = Vec::with_capacity(ROW_LEN);
        loop {
            let mut least: Option<(usize, Row)> = None;
            for (at, cursor) in cursors.iter_mut().enumerate() {
                if let Some(row) = cursor.peek(packs)?
                    && least.as_ref().is_none_or(|(_, least)| row.key() < least.key())
                {
                    least = Some((at, row));
                }
            }
            let Some((at, mut row)) = least else { break };
            cursors[at].next += 1;
            let there = |location: &Location| packs.standing(location.pack) != Standing::Gone;
            let Some(location) = parts[at].location(&row).filter(there) else {
                continue;
            };
            let Ok(index) = slots.binary_search(&location.pack) else {
                continue;
            };
            row.pack = index as u32;
            encoded.clear();
            row.append(&mut encoded);
            out.write_all(&encoded)?;
            if count.is_multiple_of(SAMPLE_EVERY) {
                samples.push(row.digest.prefix());
            }
            filter.insert(&row.digest, row.kind);
            count += 1;
        }
        let mut tables = Vec::new();
        for &slot in &slots {
            tables.extend_from_slice(packs.id_of(slot)?.as_bytes());
        }
        for number in samples.iter().chain(filter.words()) {
            tables.extend_from_slice(&number.to_le_bytes());
        }
        out.write_all(&tables)?;
        out.write_all(TAG)?;
        let counts = [count, slots.len() as u64, samples.len() as u64, filter.words().len() as u64];
        for number in counts.into_iter().chain([checksum(&tables)]) {
            out.write_all(&number.to_le_bytes())?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Walks the rows of one segment.
struct Cursor<'a> {
    segment: &'a Segment,
    next: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    fn new(segment: &'a Segment) -> Self {
        Self { segment, next: 0, window: Vec::new(), window_at: 0 }
    }

    fn peek(&mut self, packs: &Packs) -> io::Result<Option<Row>> {
        if self.next >= self.segment.count {
            return Ok(None);
        }
        if self.next >= self.window_at + (self.window.len() / ROW_LEN) as u64 {
            let count = MERGE_ROWS.min(self.segment.count - self.next);
            self.window = self.segment.read(packs, self.next, count)?;
            self.window_at = self.next;
        }
        let at = (self.next - self.window_at) as usize * ROW_LEN;
        let row = Row::parse(&self.window[at..at + ROW_LEN]);
        row.map(Some).ok_or_else(|| invalid("a row of a segment is damaged"))
    }
}
