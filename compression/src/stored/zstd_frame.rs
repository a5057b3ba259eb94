//! zstd frames of raw blocks, and skippable ones (RFC 8878, sections 3.1.1 and 3.1.2).
//!
//! A zstd stream may be many frames, so framing that is not worth compressing goes as raw frames
//! between those of the chunks, which stay as they are kept.

use super::layout::{Chunk, Layout};

/// The first four bytes of a frame.
pub const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// The magic number of skippable frames, whose lowest four bits are free.
pub const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
/// A skippable frame's bytes before its content: the magic number and the length, both `u32` LE.
pub const SKIPPABLE_HEADER_LEN: usize = 8;
/// The most a block holds, whatever the window.
pub const MAX_BLOCK_LEN: usize = 128 << 10;

const BLOCK_HEADER_LEN: usize = 3;
/// The window of frames longer than one block: 128 KiB, so that blocks may be as long as they may
/// ever be. Decoders allocate little, and accept it whatever the frame's length.
const WINDOW_DESCRIPTOR: u8 = (17 - 10) << 3;
const SINGLE_SEGMENT: u8 = 1 << 5;

/// The header of a skippable frame of `content_len` bytes; `tag` is the free part of the magic
/// number, of which the lowest four bits count.
#[must_use]
pub const fn skippable_header(tag: u8, content_len: u32) -> [u8; SKIPPABLE_HEADER_LEN] {
    let [a, b, c, d] = (SKIPPABLE_MAGIC | (tag & 0x0f) as u32).to_le_bytes();
    let [e, f, g, h] = content_len.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Appends one frame that holds `plain` in raw blocks, with its size and without a checksum.
pub fn raw_frame(plain: &[u8], out: &mut Vec<u8>) {
    out.reserve(raw_frame_len(plain.len()));
    out.extend_from_slice(&header(plain.len() as u64));
    if plain.is_empty() {
        out.extend_from_slice(&block_header(0, true));
    }
    let last = plain.len().saturating_sub(1) / MAX_BLOCK_LEN;
    for (i, block) in plain.chunks(MAX_BLOCK_LEN).enumerate() {
        out.extend_from_slice(&block_header(block.len() as u32, i == last));
        out.extend_from_slice(block);
    }
}

/// The length of [`raw_frame`]'s frame for that many plain bytes.
#[must_use]
pub fn raw_frame_len(plain_len: usize) -> usize {
    let blocks = plain_len.div_ceil(MAX_BLOCK_LEN).max(1);
    header(plain_len as u64).len() + blocks * BLOCK_HEADER_LEN + plain_len
}

/// The magic number, the frame header's descriptor, the window unless the frame is one segment, and
/// the content's size in the fewest bytes.
fn header(plain_len: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    let size = plain_len.to_le_bytes();
    let size_less_256 = plain_len.wrapping_sub(256).to_le_bytes();
    let (flags, size_field) = match plain_len {
        0..=0xff => (0, &size[..1]),
        // Two bytes tell the size less 256.
        0x100..=0x100ff => (1 << 6, &size_less_256[..2]),
        0x10100..=0xffff_ffff => (2 << 6, &size[..4]),
        _ => (3 << 6, &size[..]),
    };
    // A single segment is its own window.
    let one_block = plain_len <= MAX_BLOCK_LEN as u64;
    header.push(if one_block { flags | SINGLE_SEGMENT } else { flags });
    if !one_block {
        header.push(WINDOW_DESCRIPTOR);
    }
    header.extend_from_slice(size_field);
    header
}

/// `Last_Block`, type 0 for a raw block, the length.
const fn block_header(len: u32, is_last: bool) -> [u8; BLOCK_HEADER_LEN] {
    let [a, b, c, _] = (len << 3 | is_last as u32).to_le_bytes();
    [a, b, c]
}

pub(super) fn layout(plain_len: u64) -> Layout {
    Layout {
        head: header(plain_len),
        chunk_len: MAX_BLOCK_LEN as u64,
        chunk_header_len: BLOCK_HEADER_LEN as u64,
        chunk_header: |chunk: Chunk, out| out.extend(block_header(chunk.len, chunk.is_last)),
        tail: if plain_len == 0 { block_header(0, true).to_vec() } else { Vec::new() },
        checksum_len: 0,
    }
}
