//! Sealed packs as a whole: made at once, and read back by their footer.

use std::io;

use super::format::{START_LEN, TRAILER_LEN, start};
use super::{
    Footer, FrameDecoder, HEADER_LEN, Kind, PackError, PackId, ROW_LEN, RecordHeader, Row,
};
use crate::Digest;
use crate::bytes::ReadPack;
use crate::log::Run;

fn damaged(pack: PackId, offset: u64, what: &'static str) -> PackError {
    PackError::Damaged { pack, offset, what }
}

/// A sealed pack that holds the records of `run` and nothing else.
pub fn seal(id: PackId, run: &Run, last_sequence: u64) -> io::Result<Vec<u8>> {
    let mut pack = start(id).to_vec();
    pack.extend_from_slice(&run.bytes);
    let moved = |row: &Row| Row { offset: START_LEN as u64 + row.offset, ..*row };
    let mut rows: Vec<Row> = run.rows.iter().map(moved).collect();
    let footer = footer(pack.len() as u64, &mut rows, last_sequence)?;
    pack.extend_from_slice(&footer);
    Ok(pack)
}

/// The footer of a pack whose records end at `end`. Sorts the rows.
pub fn footer(end: u64, rows: &mut [Row], last_sequence: u64) -> io::Result<Vec<u8>> {
    rows.sort_by_key(Row::key);
    let mut encoded = Vec::with_capacity(rows.len() * ROW_LEN);
    rows.iter().for_each(|row| row.append(&mut encoded));
    let facts = rows.iter().filter(|row| row.kind == Kind::Facts).count() as u64;
    let mut footer = Vec::new();
    Footer::append(&mut footer, end, &encoded, facts, last_sequence)
        .ok_or_else(|| io::Error::other("a pack has too many records for its footer"))?;
    Ok(footer)
}

/// Reads the last frame of a sealed pack of `len` bytes.
pub fn trailer(id: PackId, pack: &dyn ReadPack, len: u64) -> Result<Footer, PackError> {
    let mut trailer = [0; TRAILER_LEN];
    let at = len.checked_sub(TRAILER_LEN as u64);
    let at = at.ok_or_else(|| damaged(id, 0, "it is too short to be a sealed pack"))?;
    let footer = checked(pack, at..len, |pack| {
        pack.read_at(at, &mut trailer).map_err(PackError::io_in(id))?;
        Footer::parse(&trailer, len).ok_or_else(|| damaged(id, at, "its footer is not whole"))
    })?;
    Ok(footer)
}

/// The rows of a footer, sorted.
pub fn rows_of(id: PackId, pack: &dyn ReadPack, footer: &Footer) -> Result<Vec<Row>, PackError> {
    let length = footer.rows * ROW_LEN as u64;
    let mut bytes = vec![0; length as usize];
    checked(pack, footer.rows_at..footer.rows_at + length, |pack| {
        pack.read_at(footer.rows_at, &mut bytes).map_err(PackError::io_in(id))?;
        if footer.matches(&bytes) {
            return Ok(());
        }
        Err(damaged(id, footer.rows_at, "its footer does not match its checksum"))
    })?;
    let rows = bytes.chunks_exact(ROW_LEN).map(Row::parse).collect::<Option<Vec<Row>>>();
    rows.ok_or_else(|| damaged(id, footer.rows_at, "its footer has an unknown kind"))
}

/// The footer of a sealed pack of `len` bytes, with its rows.
pub fn rows(id: PackId, pack: &dyn ReadPack, len: u64) -> Result<(Footer, Vec<Row>), PackError> {
    let footer = trailer(id, pack, len)?;
    let rows = rows_of(id, pack, &footer)?;
    Ok((footer, rows))
}

/// The plain bytes of a small record, checked.
pub fn record(
    id: PackId,
    pack: &dyn ReadPack,
    row: &Row,
    decoder: &mut FrameDecoder,
) -> Result<Vec<u8>, PackError> {
    let mut record = vec![0; HEADER_LEN + row.stored as usize];
    let wrong = || damaged(id, row.offset, "a record is not whole");
    checked(pack, row.offset..row.offset + record.len() as u64, |pack| {
        pack.read_at(row.offset, &mut record).map_err(PackError::io_in(id))?;
        let header = RecordHeader::parse(&record).ok_or_else(wrong)?;
        if header.expected_checksum(&record[HEADER_LEN..]) != header.checksum {
            return Err(wrong());
        }
        let mut plain = Vec::with_capacity(row.plain as usize);
        let decoded = decoder.append(&mut plain, &record[HEADER_LEN..], row.plain as usize);
        decoded.map_err(|_| wrong())?;
        if row.kind == Kind::Facts && Digest::of(&plain) != row.digest {
            return Err(wrong());
        }
        Ok(plain)
    })
}

/// Reads once more where what was read is damaged: it may be a cache that is, and not the pack.
fn checked<T>(
    pack: &dyn ReadPack,
    range: std::ops::Range<u64>,
    mut read: impl FnMut(&dyn ReadPack) -> Result<T, PackError>,
) -> Result<T, PackError> {
    match read(pack) {
        Err(PackError::Damaged { .. }) => {
            pack.distrust(range);
            read(pack)
        }
        found => found,
    }
}
