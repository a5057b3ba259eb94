//! One record held against its row: header, checksum, and what it decodes to.

use super::Depth;
use super::Flaw;
use crate::Digest;
use crate::facts::{self, Sequences};
use crate::pack::{FrameDecoder, HEADER_LEN, Kind, RecordHeader, Row};
use crate::tree::{ChunkList, Tree};

/// Verifies records. Keep one per thread.
pub(super) struct Verifier {
    decoder: FrameDecoder,
    plain: Vec<u8>,
}

impl Verifier {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { decoder: FrameDecoder::new()?, plain: Vec::new() })
    }

    /// Verifies a record, header included. Returns which sequence numbers it accounts for, if it holds
    /// facts that were decoded: its own, and those that it declares void.
    pub fn verify(
        &mut self,
        row: &Row,
        record: &[u8],
        depth: Depth,
    ) -> Result<Vec<Sequences>, Flaw> {
        let header = RecordHeader::parse(record).ok_or(Flaw::Header)?;
        let same = header.kind == row.kind
            && header.digest == row.digest
            && header.stored == row.stored
            && header.plain == u64::from(row.plain);
        let frames = record.get(HEADER_LEN..).unwrap_or_default();
        if !same || frames.len() != row.stored as usize {
            return Err(Flaw::OtherRecord);
        }
        if header.expected_checksum(frames) != header.checksum {
            return Err(Flaw::Checksum);
        }
        if row.kind == Kind::Claim {
            let empty = row.stored == 0 && row.plain == 0;
            return if empty { Ok(Vec::new()) } else { Err(Flaw::ClaimWithData) };
        }
        if depth < Depth::Contents {
            return Ok(Vec::new());
        }
        self.plain.clear();
        let decoded = self.decoder.append(&mut self.plain, frames, row.plain as usize);
        decoded.map_err(Flaw::Undecodable)?;
        // A list is named by the blob, which only its chunks together prove.
        if row.kind != Kind::ChunkList && Digest::of(&self.plain) != row.digest {
            return Err(Flaw::Digest);
        }
        match row.kind {
            Kind::Chunk | Kind::Claim => Ok(Vec::new()),
            Kind::ChunkList => {
                ChunkList::decode(&self.plain).map(|_| Vec::new()).map_err(Flaw::Tree)
            }
            Kind::Tree => Tree::decode(&self.plain).map(|_| Vec::new()).map_err(Flaw::Tree),
            Kind::Facts => {
                let (sequence, mut numbers) = facts::order_of(&self.plain).map_err(Flaw::Facts)?;
                numbers.push(Sequences { first: sequence, last: sequence });
                Ok(numbers)
            }
        }
    }
}
