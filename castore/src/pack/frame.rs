//! Data frames: plain bytes as one zstd frame, raw where compression does not pay.

use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

use super::format::HEADER_LEN;
use super::{Kind, RecordHeader};
use crate::Digest;

/// Compression level. On chunks of this size level 3 takes a third more CPU for 2 % less space,
/// level 1 a tenth less CPU for 3 % more.
pub const LEVEL: i32 = 2;

/// A frame has to be this much shorter than its plain bytes (one part in so many) to be kept
/// compressed: below that, decoding costs more than the bytes do.
const WORTHWHILE: usize = 32;

const ZSTD_MAGIC: u32 = 0xFD2F_B528;
const MAX_RAW_BLOCK: usize = 128 * 1024;

/// Turns plain bytes into records. Keep one per thread: it owns the compressor's tables.
pub struct FrameEncoder {
    compressor: Compressor<'static>,
}

impl FrameEncoder {
    /// An encoder at the usual level.
    pub fn new() -> std::io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        compressor.set_parameter(CParameter::ChecksumFlag(false))?;
        Ok(Self { compressor })
    }

    /// Appends a whole record, header and data frame, and returns its header.
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        digest: Digest,
        plain: &[u8],
    ) -> std::io::Result<RecordHeader> {
        let start = out.len();
        out.resize(start + HEADER_LEN, 0);
        self.append_frame(out, plain)?;
        let (head, frames) = out[start..].split_at_mut(HEADER_LEN);
        let header = RecordHeader::seal(kind, digest, plain.len() as u64, frames)
            .ok_or_else(|| std::io::Error::other("a record is longer than 4 GiB"))?;
        head.copy_from_slice(&header.to_bytes());
        Ok(header)
    }

    fn append_frame(&mut self, out: &mut Vec<u8>, plain: &[u8]) -> std::io::Result<()> {
        let start = out.len();
        out.resize(start + zstd_safe::compress_bound(plain.len()), 0);
        let length = self.compressor.compress_to_buffer(plain, &mut out[start..])?;
        out.truncate(start + length);
        if length + plain.len() / WORTHWHILE >= plain.len() {
            out.truncate(start);
            append_raw_frame(out, plain);
        }
        Ok(())
    }
}

/// Appends `plain` as one zstd frame of raw blocks.
fn append_raw_frame(out: &mut Vec<u8>, plain: &[u8]) {
    out.extend_from_slice(&ZSTD_MAGIC.to_le_bytes());
    // Frame header descriptor: single segment, content size of 4 bytes.
    out.push(0b1010_0000);
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    let mut blocks = plain.chunks(MAX_RAW_BLOCK).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = (block.len() as u32) << 3 | last;
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
}

/// Turns stored frames back into plain bytes. Keep one per thread.
pub struct FrameDecoder {
    decompressor: Decompressor<'static>,
}

impl FrameDecoder {
    /// A decoder.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()? })
    }

    /// Appends the `plain` bytes that `frames` hold to `out`; anything else is an error, and leaves
    /// `out` as it was.
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        frames: &[u8],
        plain: usize,
    ) -> std::io::Result<()> {
        let start = out.len();
        out.resize(start + plain, 0);
        let decoded = self.decompressor.decompress_to_buffer(frames, &mut out[start..]);
        if matches!(decoded, Ok(length) if length == plain) {
            return Ok(());
        }
        out.truncate(start);
        let length = decoded?;
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("a frame holds {length} bytes instead of {plain}"),
        ))
    }
}

/// XXH3-64, for the files beside the packs.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_every_size_decode_with_stock_zstd() {
        let mut noise = vec![0; 400_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (mut encoder, mut decoder) =
            (FrameEncoder::new().unwrap(), FrameDecoder::new().unwrap());
        for plain in [vec![], vec![7], vec![b'x'; 300_000], noise[..100].to_vec(), noise] {
            let mut record = Vec::new();
            let header =
                encoder.append(&mut record, Kind::Chunk, Digest::of(&plain), &plain).unwrap();
            assert_eq!(RecordHeader::parse(&record), Some(header));
            let frames = &record[HEADER_LEN..];
            assert_eq!(header.expected_checksum(frames), header.checksum);
            assert_eq!(zstd::stream::decode_all(&record[..]).unwrap(), plain);
            let mut out = Vec::new();
            decoder.append(&mut out, frames, plain.len()).unwrap();
            assert_eq!(out, plain);
            assert!(record.len() <= plain.len() + HEADER_LEN + 32);
        }
    }
}
