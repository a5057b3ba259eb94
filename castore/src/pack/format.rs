//! The bytes of a pack. All integers are little-endian.
//!
//! ```text
//! pack    = start record* [footer]
//! start   = skippable frame: magic(4) length(4)=24 "GRANPACK" id(16)
//! record  = header frames
//! header  = skippable frame: magic(4) length(4)=56
//!           version(1) kind(1) 0(2) stored(4) plain(8) digest(32) checksum(8)
//! frames  = `stored` bytes of zstd data frames that decode to `plain` bytes
//! footer  = skippable frame: magic(4) length(4) row*
//!           skippable frame: magic(4) length(4)=48
//!           version(1) 0(7) rows offset(8) rows(8) facts(8) last sequence(8) checksum(8)
//! ```
//!
//! A record's checksum is XXH3-64 of its data frames, seeded with the XXH3-64 of the header up to
//! the checksum: a header moved to other bytes does not match. The footer's is XXH3-64 of the rows,
//! seeded likewise. Checksums find rot; digests are what proves contents.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{PackId, ROW_LEN};
use crate::Digest;

/// The format that this program writes.
pub const VERSION: u8 = 1;
/// Skippable frame magic of every frame Granary adds to a pack.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A5C;
/// Length of the frame a pack starts with.
pub const START_LEN: usize = 8 + 24;
/// Length of a record's header, frame included.
pub const HEADER_LEN: usize = 8 + 56;
/// Length of the footer's last frame.
pub const TRAILER_LEN: usize = 8 + 48;

const START_TAG: &[u8; 8] = b"GRANPACK";

/// What a record holds. The numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A run of file bytes, under the digest of its plain bytes.
    Chunk = 1,
    /// A [`crate::tree::ChunkList`], under the digest of the blob it makes up.
    ChunkList = 2,
    /// A [`crate::tree::Tree`], under the digest of its encoding.
    Tree = 3,
    /// A [`crate::facts`] record, under the digest of its encoding.
    Facts = 4,
    /// A claim to a chunk, see [`crate::Holder`]. It has no data.
    Claim = 5,
}

impl Kind {
    /// The kind of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Chunk, Self::ChunkList, Self::Tree, Self::Facts, Self::Claim]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chunk => "chunk",
            Self::ChunkList => "chunk list",
            Self::Tree => "tree",
            Self::Facts => "record of facts",
            Self::Claim => "claim",
        })
    }
}

/// What stands before each record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record holds.
    pub kind: Kind,
    /// What it is called.
    pub digest: Digest,
    /// Length of its plain bytes.
    pub plain: u64,
    /// Length of its data frames.
    pub stored: u32,
    /// Over the data frames and this header.
    pub checksum: u64,
}

fn frame_start(out: &mut [u8], payload: u32) {
    out[..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&payload.to_le_bytes());
}

/// Length of the payload when `bytes` starts with one of our skippable frames.
fn payload_len(bytes: &[u8]) -> Option<u32> {
    (u32_at(bytes, 0)? == SKIPPABLE_MAGIC).then(|| u32_at(bytes, 4))?
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The frame a pack starts with.
pub fn start(id: PackId) -> [u8; START_LEN] {
    let mut out = [0; START_LEN];
    frame_start(&mut out, 24);
    out[8..16].copy_from_slice(START_TAG);
    out[16..].copy_from_slice(id.as_bytes());
    out
}

impl RecordHeader {
    /// Makes the header for `frames`, which decode to `plain` bytes.
    pub fn seal(kind: Kind, digest: Digest, plain: u64, frames: &[u8]) -> Option<Self> {
        let stored = u32::try_from(frames.len()).ok()?;
        let mut header = Self { kind, digest, plain, stored, checksum: 0 };
        header.checksum = header.expected_checksum(frames);
        Some(header)
    }

    /// What the checksum has to be over `frames`.
    pub fn expected_checksum(&self, frames: &[u8]) -> u64 {
        let bytes = self.to_bytes();
        xxh3_64_with_seed(frames, xxh3_64(&bytes[..HEADER_LEN - 8]))
    }

    /// The header as it lies in the pack.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        frame_start(&mut out, 56);
        out[8] = VERSION;
        out[9] = self.kind as u8;
        out[12..16].copy_from_slice(&self.stored.to_le_bytes());
        out[16..24].copy_from_slice(&self.plain.to_le_bytes());
        out[24..56].copy_from_slice(self.digest.as_bytes());
        out[56..64].copy_from_slice(&self.checksum.to_le_bytes());
        out
    }

    /// Reads a header; `None` when the bytes are not one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_LEN || payload_len(bytes)? != 56 || bytes[8] != VERSION {
            return None;
        }
        // The checksum is made from the fields, so it cannot tell that these have rotted.
        if bytes[10..12] != [0; 2] {
            return None;
        }
        Some(Self {
            kind: Kind::from_number(bytes[9])?,
            digest: Digest::from_slice(&bytes[24..56])?,
            plain: u64_at(bytes, 16)?,
            stored: u32_at(bytes, 12)?,
            checksum: u64_at(bytes, 56)?,
        })
    }
}

/// What the last frame of a sealed pack says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Where the first row lies, from the start of the pack.
    pub rows_at: u64,
    /// How many rows there are.
    pub rows: u64,
    /// How many of them are facts.
    pub facts: u64,
    /// The highest sequence number among the facts; 0 without facts.
    pub last_sequence: u64,
    checksum: u64,
}

impl Footer {
    /// Appends the whole footer for a pack whose records end at `end`. `rows` is encoded and sorted.
    ///
    /// `None` when the rows do not fit into a frame (4 GiB), which the size of packs rules out.
    pub fn append(
        out: &mut Vec<u8>,
        end: u64,
        rows: &[u8],
        facts: u64,
        last_sequence: u64,
    ) -> Option<()> {
        let mut head = [0; 8];
        frame_start(&mut head, u32::try_from(rows.len()).ok()?);
        out.extend_from_slice(&head);
        out.extend_from_slice(rows);
        let mut footer = Self {
            rows_at: end + 8,
            rows: (rows.len() / ROW_LEN) as u64,
            facts,
            last_sequence,
            checksum: 0,
        };
        footer.checksum = footer.expected_checksum(rows);
        out.extend_from_slice(&footer.trailer());
        Some(())
    }

    fn trailer(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        frame_start(&mut out, 48);
        out[8] = VERSION;
        for (at, number) in [self.rows_at, self.rows, self.facts, self.last_sequence, self.checksum]
            .into_iter()
            .enumerate()
        {
            out[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn expected_checksum(&self, rows: &[u8]) -> u64 {
        xxh3_64_with_seed(rows, xxh3_64(&self.trailer()[..TRAILER_LEN - 8]))
    }

    /// Reads the last frame of a pack of `len` bytes; `None` when it is not a footer's.
    pub fn parse(trailer: &[u8; TRAILER_LEN], len: u64) -> Option<Self> {
        if payload_len(trailer)? != 48 || trailer[8] != VERSION || trailer[9..16] != [0; 7] {
            return None;
        }
        let footer = Self {
            rows_at: u64_at(trailer, 16)?,
            rows: u64_at(trailer, 24)?,
            facts: u64_at(trailer, 32)?,
            last_sequence: u64_at(trailer, 40)?,
            checksum: u64_at(trailer, 48)?,
        };
        let bytes = footer.rows.checked_mul(ROW_LEN as u64)?;
        let end = footer.rows_at.checked_add(bytes)?.checked_add(TRAILER_LEN as u64)?;
        (end == len).then_some(footer)
    }

    /// Whether `rows` are the ones that this footer was written with.
    pub fn matches(&self, rows: &[u8]) -> bool {
        self.checksum == self.expected_checksum(rows)
    }
}
