//! xz: one stream of one block of LZMA2's uncompressed chunks.
//!
//! Without an integrity check: it would have to be computed over all bytes before any of the end
//! could be served, and the NAR's own hash guards the same bytes. (The headers and the index keep
//! the CRC32 that the format always has.)

use super::layout::{Chunk, Layout};

const MAGIC: &[u8] = b"\xfd7zXZ\0";
const FOOTER_MAGIC: &[u8] = b"YZ";
/// No integrity check.
const STREAM_FLAGS: [u8; 2] = [0, 0];
/// 64 KiB, the dictionary that decoders allocate; nothing refers back into it.
const DICTIONARY: u8 = 8;
/// The most an uncompressed chunk holds.
const CHUNK_LEN: u64 = 1 << 16;
const CHUNK_HEADER_LEN: u64 = 3;

pub(super) fn layout(plain_len: u64) -> Layout {
    let mut head = MAGIC.to_vec();
    head.extend(STREAM_FLAGS);
    head.extend(crc32fast::hash(&STREAM_FLAGS).to_le_bytes());

    let mut tail = Vec::new();
    let mut index = vec![0]; // the index indicator
    if plain_len == 0 {
        push_vli(0, &mut index);
    } else {
        let block_header = block_header();
        head.extend(&block_header);
        let compressed = plain_len + plain_len.div_ceil(CHUNK_LEN) * CHUNK_HEADER_LEN + 1;
        tail.push(0); // LZMA2's end
        tail.extend(vec![0; padding(compressed)]);
        push_vli(1, &mut index);
        push_vli(block_header.len() as u64 + compressed, &mut index);
        push_vli(plain_len, &mut index);
    }
    index.extend(vec![0; padding(index.len() as u64)]);
    index.extend(crc32fast::hash(&index).to_le_bytes());

    // In units of four bytes, less one. An index of at most one record is some 30 bytes.
    let mut footer = [index.len() as u8 / 4 - 1, 0, 0, 0].to_vec();
    footer.extend(STREAM_FLAGS);
    tail.extend(&index);
    tail.extend(crc32fast::hash(&footer).to_le_bytes());
    tail.extend(footer);
    tail.extend(FOOTER_MAGIC);

    Layout {
        head,
        chunk_len: CHUNK_LEN,
        chunk_header_len: CHUNK_HEADER_LEN,
        chunk_header,
        tail,
        checksum_len: 0,
    }
}

/// One filter, LZMA2 (0x21), whose one byte of properties is the dictionary size; no sizes.
fn block_header() -> Vec<u8> {
    let mut header = vec![0, 0, 0x21, 1, DICTIONARY, 0, 0, 0];
    // The whole header in units of four bytes, less one, counting the checksum.
    header[0] = 2;
    header.extend(crc32fast::hash(&header).to_le_bytes());
    header
}

/// The first chunk resets the dictionary (1), the others need not (2).
fn chunk_header(chunk: Chunk, out: &mut Vec<u8>) {
    let [.., high, low] = (chunk.len - 1).to_be_bytes();
    out.extend([if chunk.is_first { 1 } else { 2 }, high, low]);
}

/// How many zeros make a length a multiple of four.
const fn padding(len: u64) -> usize {
    (len.wrapping_neg() % 4) as usize
}

/// Seven bits to a byte, the lowest first, the top bit set in all bytes but the last.
fn push_vli(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
