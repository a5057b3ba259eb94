//! LZ4: one frame of uncompressed blocks, with the content's size and without its checksum.

use twox_hash::XxHash32;

use super::layout::{Chunk, Layout};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1, blocks that stand alone, the content's size is told.
const FLAGS: u8 = 0b0110_1000;
/// Blocks of at most 256 KiB.
const BLOCK_DESCRIPTOR: u8 = 0b0101_0000;
const CHUNK_LEN: u64 = 1 << 18;
const CHUNK_HEADER_LEN: u64 = 4;
const UNCOMPRESSED: u32 = 1 << 31;
const END_MARK: [u8; 4] = [0; 4];

pub(super) fn layout(plain_len: u64) -> Layout {
    let mut descriptor = vec![FLAGS, BLOCK_DESCRIPTOR];
    descriptor.extend(plain_len.to_le_bytes());
    let [_, check, ..] = XxHash32::oneshot(0, &descriptor).to_le_bytes();
    let mut head = MAGIC.to_vec();
    head.extend(descriptor);
    head.push(check);
    Layout {
        head,
        chunk_len: CHUNK_LEN,
        chunk_header_len: CHUNK_HEADER_LEN,
        chunk_header: |chunk: Chunk, out| out.extend((chunk.len | UNCOMPRESSED).to_le_bytes()),
        tail: END_MARK.to_vec(),
        checksum_len: 0,
    }
}
