//! brotli: uncompressed meta-blocks (RFC 7932, section 9.2).

use super::layout::{Chunk, Layout};

/// The most a meta-block's length of four nibbles tells; more would make the headers differ in size.
const CHUNK_LEN: u64 = 1 << 16;
const CHUNK_HEADER_LEN: u64 = 3;
/// `ISLAST` and `ISLASTEMPTY`.
const LAST_AND_EMPTY: u8 = 0b11;

pub(super) fn layout(plain_len: u64) -> Layout {
    Layout {
        head: Vec::new(),
        chunk_len: CHUNK_LEN,
        chunk_header_len: CHUNK_HEADER_LEN,
        chunk_header,
        // Alone, it has the window size before it.
        tail: vec![if plain_len == 0 { LAST_AND_EMPTY << 1 } else { LAST_AND_EMPTY }],
        checksum_len: 0,
    }
}

/// From the lowest bit on: in the first chunk `WBITS` 0 for a window of 64 KiB; `ISLAST` 0;
/// `MNIBBLES` 0 for four nibbles; the length less one; `ISUNCOMPRESSED` 1; zeros to the byte's end.
fn chunk_header(chunk: Chunk, out: &mut Vec<u8>) {
    let bits = (chunk.len - 1) << 3 | 1 << 19;
    let bits = if chunk.is_first { bits << 1 } else { bits };
    out.extend_from_slice(&bits.to_le_bytes()[..3]);
}
