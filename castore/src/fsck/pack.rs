//! One pack: its start, its footer, how its records lie, and the records themselves.

use std::io;
use std::sync::Arc;

use super::hands::{Batch, Hands, Verified};
use super::verify::Verifier;
use super::{Damage, Depth, Flaw, FooterFlaw, Problem, is_out_of_reach};
use crate::bytes::ReadPack;
use crate::facts::Sequences;
use crate::pack::format::{SKIPPABLE_MAGIC, START_LEN, TRAILER_LEN, start};
use crate::pack::{Footer, HEADER_LEN, Kind, PackId, ROW_LEN, Row, recover};

/// Bytes that are read at once. There are as many windows in memory as threads, twice, and one more.
const WINDOW: u64 = 4 * 1024 * 1024;
/// Damaged records that are named, per pack. A pack that is all rot would fill the list.
const MAX_NAMED: u64 = 100;
/// Length of the header of the frame that holds a footer's rows.
const FRAME_LEN: u64 = 8;

/// A pack as it is being checked.
pub(crate) struct Subject {
    pub id: PackId,
    pub pack: Arc<dyn ReadPack>,
    pub len: u64,
    pub sealed: bool,
    /// Its store is open, and has cut off what was torn: it has to be whole to its end.
    pub cut: bool,
}

/// Checks packs, one after the other, and gathers what it finds.
pub(crate) struct Checker {
    depth: Depth,
    /// `None` where records are not read.
    hands: Option<Hands>,
    pub problems: Vec<Problem>,
    pub damage: Damage,
    pub records: u64,
    /// Sequence numbers of the facts that were decoded.
    pub sequences: Vec<Sequences>,
    /// The highest sequence number that a footer or a decoded record names.
    pub last_sequence: u64,
    /// Damaged records of the pack at hand.
    damaged_here: u64,
}

/// What stands at the end of a sealed pack, or the flaw in it.
struct End {
    rows: Vec<Row>,
    end: u64,
    last_sequence: u64,
}

impl Checker {
    pub fn new(depth: Depth, threads: usize) -> io::Result<Self> {
        let hands = (depth > Depth::Footers).then(|| Hands::start(threads, depth)).transpose()?;
        Ok(Self {
            depth,
            hands,
            problems: Vec::new(),
            damage: Damage::default(),
            records: 0,
            sequences: Vec::new(),
            last_sequence: 0,
            damaged_here: 0,
        })
    }

    /// Checks a pack; `read` is told of bytes that were read, and ends the check with an error. Returns
    /// its rows, as far as they are known, in the order of the pack. Fails otherwise only where the store
    /// cannot be reached.
    pub fn check(
        &mut self,
        subject: &Subject,
        read: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<Vec<Row>> {
        let pack = subject.id;
        self.damaged_here = 0;
        let rows = match self.rows(subject) {
            Ok(rows) => rows,
            Err(source) if is_out_of_reach(&source) => return Err(source),
            Err(source) => {
                self.problems.push(Problem::Unreadable { pack, source });
                Vec::new()
            }
        };
        if self.depth > Depth::Footers {
            self.read(subject, &rows, read)?;
            while let Some(verified) = self.result(true)? {
                self.take(verified);
            }
        } else {
            self.records += rows.len() as u64;
        }
        if self.damaged_here > MAX_NAMED {
            let records = self.damaged_here - MAX_NAMED;
            self.problems.push(Problem::MoreRecords { pack, records });
        }
        Ok(rows)
    }

    /// The rows of a pack, sorted by offset.
    fn rows(&mut self, subject: &Subject) -> io::Result<Vec<Row>> {
        let (pack, len) = (subject.id, subject.len);
        if !subject.sealed {
            return self.unsealed_rows(subject);
        }
        let mut head = [0; START_LEN];
        if len >= START_LEN as u64 {
            subject.pack.read_at(0, &mut head)?;
        }
        if head != start(pack) {
            self.problems.push(Problem::Start { pack });
        }
        let (mut rows, end) = match read_end(subject)? {
            Ok(End { rows, end, last_sequence }) => {
                self.last_sequence = self.last_sequence.max(last_sequence);
                (rows, end)
            }
            Err((flaw, Some(End { rows, end, .. }))) => {
                let records = rows.len() as u64;
                self.problems.push(Problem::Footer { pack, flaw, records, whole_to: end });
                (rows, end)
            }
            Err((flaw, None)) => {
                let read = |offset, buffer: &mut [u8]| subject.pack.read_at(offset, buffer);
                let found = recover(pack, len, read)?;
                let (rows, whole_to) = found.map_or((Vec::new(), 0), |f| (f.rows, f.end));
                let records = rows.len() as u64;
                self.problems.push(Problem::Footer { pack, flaw, records, whole_to });
                self.last_sequence = self.last_sequence.max(last_sequence(&*subject.pack, &rows)?);
                return Ok(rows);
            }
        };
        rows.sort_by_key(|row| row.offset);
        let mut next = START_LEN as u64;
        let mut wrong = None;
        for row in &rows {
            if row.offset != next {
                wrong = wrong.or(Some(next.min(row.offset)));
            }
            next = row.offset + HEADER_LEN as u64 + u64::from(row.stored);
        }
        if next != end {
            wrong = wrong.or(Some(next.min(end)));
        }
        if let Some(offset) = wrong {
            self.problems.push(Problem::Layout { pack, offset });
        }
        Ok(rows)
    }

    /// What lies behind the last whole record of an unsealed pack was never acknowledged, unless a
    /// store has opened it since: then it is damage.
    fn unsealed_rows(&mut self, subject: &Subject) -> io::Result<Vec<Row>> {
        let Subject { id: pack, len, .. } = *subject;
        let read = |offset, buffer: &mut [u8]| subject.pack.read_at(offset, buffer);
        let Some(found) = recover(pack, len, read)? else {
            // A start that is not all there is that of a pack that never held anything.
            if len >= START_LEN as u64 {
                self.problems.push(Problem::Start { pack });
            }
            return Ok(Vec::new());
        };
        // One that is being sealed at this moment grows by its footer.
        if subject.cut && found.end < len && !found.sealed && subject.pack.len()? == len {
            let (offset, bytes) = (found.end, len - found.end);
            self.problems.push(Problem::Unsealed { pack, offset, bytes });
        }
        self.last_sequence = self.last_sequence.max(last_sequence(&*subject.pack, &found.rows)?);
        Ok(found.rows)
    }

    /// Reads every record and has it verified.
    fn read(
        &mut self,
        subject: &Subject,
        rows: &[Row],
        read: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if subject.sealed {
            // What a cache on this machine holds says nothing of the pack.
            subject.pack.distrust(0..subject.len);
        }
        // Rows that lead out of the pack were told as a flaw of its layout.
        let inside = |row: &&Row| extent(std::slice::from_ref(*row)).end <= subject.len;
        let rows: Vec<Row> = rows.iter().filter(inside).copied().collect();
        let mut windows = windows(&rows).peekable();
        while let Some(window) = windows.next() {
            if let Some(next) = windows.peek() {
                subject.pack.will_read(extent(next));
            }
            let range = extent(window);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            match subject.pack.read_at(range.start, &mut bytes) {
                Ok(()) => self.submit(subject, range.start, bytes, window.to_vec())?,
                Err(error) if is_out_of_reach(&error) => return Err(error),
                // Somewhere in there: what can be read still counts.
                Err(_) => self.read_singly(subject, window)?,
            }
            read(range.end - range.start)?;
        }
        Ok(())
    }

    fn read_singly(&mut self, subject: &Subject, rows: &[Row]) -> io::Result<()> {
        for row in rows {
            let mut bytes = vec![0; HEADER_LEN + row.stored as usize];
            match subject.pack.read_at(row.offset, &mut bytes) {
                Ok(()) => self.submit(subject, row.offset, bytes, vec![*row])?,
                Err(error) if is_out_of_reach(&error) => return Err(error),
                Err(error) => {
                    let damaged = vec![(subject.id, *row, Flaw::Unreadable(error))];
                    self.take(Verified { records: 1, damaged, sequences: Vec::new() });
                }
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        subject: &Subject,
        at: u64,
        bytes: Vec<u8>,
        rows: Vec<Row>,
    ) -> io::Result<()> {
        let batch = Batch { id: subject.id, pack: subject.pack.clone(), at, bytes, rows };
        if let Some(hands) = &mut self.hands {
            hands.submit(batch)?;
        }
        while let Some(verified) = self.result(false)? {
            self.take(verified);
        }
        Ok(())
    }

    fn result(&mut self, wait: bool) -> io::Result<Option<Verified>> {
        self.hands.as_mut().map_or(Ok(None), |hands| hands.result(wait))
    }

    fn take(&mut self, verified: Verified) {
        self.records += verified.records;
        for sequence in verified.sequences {
            self.last_sequence = self.last_sequence.max(sequence.last);
            self.sequences.push(sequence);
        }
        for (pack, row, flaw) in verified.damaged {
            let Row { offset, kind, digest, .. } = row;
            self.damage.add(pack, offset, kind, digest);
            self.damaged_here += 1;
            if self.damaged_here <= MAX_NAMED {
                self.problems.push(Problem::Record { pack, offset, kind, digest, flaw });
            }
        }
    }
}

/// The highest sequence number among the facts of a pack without a footer that says it; 0 without
/// facts. Facts that do not decode do not count.
pub(crate) fn last_sequence(pack: &dyn ReadPack, rows: &[Row]) -> io::Result<u64> {
    let mut verifier = Verifier::new()?;
    let mut last = 0;
    for row in rows.iter().filter(|row| row.kind == Kind::Facts) {
        let mut record = vec![0; HEADER_LEN + row.stored as usize];
        pack.read_at(row.offset, &mut record)?;
        for sequence in verifier.verify(row, &record, Depth::Contents).unwrap_or_default() {
            last = last.max(sequence.last);
        }
    }
    Ok(last)
}

/// Reads the footer. With a flaw that leaves the rows readable, they come with it.
fn read_end(subject: &Subject) -> io::Result<Result<End, (FooterFlaw, Option<End>)>> {
    let (pack, len) = (&subject.pack, subject.len);
    let mut trailer = [0; TRAILER_LEN];
    let Some(at) = len.checked_sub(TRAILER_LEN as u64) else {
        return Ok(Err((FooterFlaw::NotWhole, None)));
    };
    pack.read_at(at, &mut trailer)?;
    let footer = Footer::parse(&trailer, len);
    let footer = footer.filter(|footer| footer.rows_at >= START_LEN as u64 + FRAME_LEN);
    let Some(footer) = footer else {
        return Ok(Err((FooterFlaw::NotWhole, None)));
    };
    let end = footer.rows_at - FRAME_LEN;
    let mut bytes = vec![0; (at - end) as usize];
    pack.read_at(end, &mut bytes)?;
    let (frame, encoded) = bytes.split_at(FRAME_LEN as usize);
    if !footer.matches(encoded) {
        return Ok(Err((FooterFlaw::Checksum, None)));
    }
    let Some(rows) = encoded.chunks_exact(ROW_LEN).map(Row::parse).collect::<Option<Vec<Row>>>()
    else {
        return Ok(Err((FooterFlaw::Row, None)));
    };
    let mut expected = SKIPPABLE_MAGIC.to_le_bytes().to_vec();
    expected.extend((encoded.len() as u32).to_le_bytes());
    let facts = rows.iter().filter(|row| row.kind == Kind::Facts).count() as u64;
    let flaw = if frame != expected {
        Some(FooterFlaw::Frame)
    } else if !rows.is_sorted_by_key(Row::key) {
        Some(FooterFlaw::Order)
    } else if facts != footer.facts {
        Some(FooterFlaw::Facts)
    } else {
        None
    };
    let found = End { rows, end, last_sequence: footer.last_sequence };
    Ok(match flaw {
        Some(flaw) => Err((flaw, Some(found))),
        None => Ok(found),
    })
}

/// Where rows that lie one behind the other start and end.
fn extent(rows: &[Row]) -> std::ops::Range<u64> {
    let end = |row: &Row| row.offset + HEADER_LEN as u64 + u64::from(row.stored);
    let start = rows.first().map_or(0, |row| row.offset);
    start..rows.iter().map(end).max().unwrap_or(start)
}

/// Runs of rows, sorted by offset, each of which is read at once. A longer record is a run alone.
fn windows(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let start = rest.first()?.offset;
        let fits =
            |row: &Row| row.offset + HEADER_LEN as u64 + u64::from(row.stored) <= start + WINDOW;
        let count = rest.iter().take_while(|row| fits(row)).count().max(1);
        let (window, later) = rest.split_at(count);
        rest = later;
        Some(window)
    })
}
