//! gzip: one member of stored deflate blocks.

use super::layout::{Chunk, Layout};

/// Deflate; no flags; no time; no hint on the effort; system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The most a stored block holds.
const CHUNK_LEN: u64 = 0xffff;
const CHUNK_HEADER_LEN: u64 = 5;
const TRAILER_LEN: u64 = 8;

pub(super) fn layout(plain_len: u64) -> Layout {
    let mut tail = Vec::new();
    if plain_len == 0 {
        chunk_header(Chunk { len: 0, is_first: true, is_last: true }, &mut tail);
    }
    Layout {
        head: HEADER.to_vec(),
        chunk_len: CHUNK_LEN,
        chunk_header_len: CHUNK_HEADER_LEN,
        chunk_header,
        tail,
        checksum_len: TRAILER_LEN,
    }
}

/// `BFINAL`, type 0 and zeros to the byte's end; the length; its complement.
fn chunk_header(chunk: Chunk, out: &mut Vec<u8>) {
    let [low, high, ..] = chunk.len.to_le_bytes();
    out.extend([u8::from(chunk.is_last), low, high, !low, !high]);
}

/// What a member ends with: the CRC32 of the plain bytes, and their number modulo 2^32.
pub(super) struct Trailer(crc32fast::Hasher);

impl Trailer {
    pub(super) fn new() -> Self {
        Self(crc32fast::Hasher::new())
    }

    pub(super) fn update(&mut self, plain: &[u8]) {
        self.0.update(plain);
    }

    pub(super) fn finish(self, plain_len: u64) -> Vec<u8> {
        let mut trailer = self.0.finalize().to_le_bytes().to_vec();
        trailer.extend_from_slice(&plain_len.to_le_bytes()[..4]);
        trailer
    }
}
