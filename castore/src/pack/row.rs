//! Rows: where a record lies. Footers and segments are sorted tables of rows.
//!
//! ```text
//! row = digest(32) kind(1) 0(1) pack(4) offset(6) stored(4) plain(4)      52 bytes
//! ```
//!
//! `pack` is an index into the pack table of the file that holds the row; in a pack's own footer it
//! is 0. `offset` is that of the record's header. Integers are big-endian, so that rows sort by
//! their bytes: by digest, then by kind.

use super::Kind;
use crate::Digest;

/// Length of an encoded row.
pub const ROW_LEN: usize = 52;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The record's name.
    pub digest: Digest,
    /// What it holds.
    pub kind: Kind,
    /// Index into a pack table.
    pub pack: u32,
    /// Offset of its header; below 2^48.
    pub offset: u64,
    /// Length of its data frames.
    pub stored: u32,
    /// Length of its plain bytes.
    pub plain: u32,
}

impl Row {
    /// Appends the encoded row.
    pub fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.digest.as_bytes());
        out.extend_from_slice(&[self.kind as u8, 0]);
        out.extend_from_slice(&self.pack.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes()[2..]);
        out.extend_from_slice(&self.stored.to_be_bytes());
        out.extend_from_slice(&self.plain.to_be_bytes());
    }

    /// Reads an encoded row; `None` when the bytes are not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ROW_LEN] = bytes.try_into().ok()?;
        if bytes[33] != 0 {
            return None;
        }
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut offset = [0; 8];
        offset[2..].copy_from_slice(&bytes[38..44]);
        Some(Self {
            digest: Digest::from_slice(&bytes[..32])?,
            kind: Kind::from_number(bytes[32])?,
            pack: u32_at(34),
            offset: u64::from_be_bytes(offset),
            stored: u32_at(44),
            plain: u32_at(48),
        })
    }

    /// What rows sort by.
    pub fn key(&self) -> (Digest, Kind) {
        (self.digest, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_and_sort_by_their_bytes() {
        let row = |kind, tag: &[u8]| Row {
            digest: Digest::of(tag),
            kind,
            pack: 7,
            offset: 0x0102_0304_0506,
            stored: 9,
            plain: 10,
        };
        let mut rows = vec![row(Kind::Tree, b"a"), row(Kind::Chunk, b"a"), row(Kind::Chunk, b"b")];
        let mut encoded: Vec<Vec<u8>> = rows
            .iter()
            .map(|row| {
                let mut out = Vec::new();
                row.append(&mut out);
                out
            })
            .collect();
        rows.sort_by_key(Row::key);
        encoded.sort();
        let parsed: Vec<Row> = encoded.iter().map(|bytes| Row::parse(bytes).unwrap()).collect();
        assert_eq!(parsed, rows);
    }
}
