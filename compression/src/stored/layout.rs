//! Where framing and plain bytes lie in a stored stream.
//!
//! All stored forms are alike: a head, then the plain bytes cut into chunks of one size (the last
//! may be shorter) with a header of fixed length before each, then a tail. So the place of every
//! byte follows from the plain length, and its value from its place and the plain byte there.

use super::super::{Compression, Error};
use super::{brotli, gzip, lz4, xz, zstd_frame};

/// The most plain bytes an encoder takes: 2^48, 256 TiB. Within it no length can overflow.
pub const MAX_PLAIN_LEN: u64 = 1 << 48;

/// A stored stream's framing.
pub(super) struct Layout {
    /// What comes first.
    pub head: Vec<u8>,
    /// Plain bytes per chunk; fits 32 bits.
    pub chunk_len: u64,
    /// Bytes of framing before each chunk.
    pub chunk_header_len: u64,
    /// Appends that framing.
    pub chunk_header: fn(Chunk, &mut Vec<u8>),
    /// What comes last, but for the checksum.
    pub tail: Vec<u8>,
    /// Bytes of a checksum of all plain bytes, which ends the stream.
    pub checksum_len: u64,
}

/// What a chunk's header may tell. A chunk is never empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Plain bytes in it.
    pub len: u32,
    /// No chunk comes before it.
    pub is_first: bool,
    /// No chunk comes after it.
    pub is_last: bool,
}

/// A place in a stored stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where in the plain bytes to go on.
    pub plain: u64,
    /// How many bytes lie between the plain byte before that one, or the start, and the place.
    pub framing_passed: u64,
}

impl Layout {
    /// The stored form of `plain_len` bytes; none for bzip2.
    pub(super) fn of(compression: Compression, plain_len: u64) -> Result<Option<Self>, Error> {
        if plain_len > MAX_PLAIN_LEN {
            return Err(Error::PlainTooLong(plain_len));
        }
        Ok(match compression {
            Compression::None => Some(Self {
                head: Vec::new(),
                chunk_len: 1 << 20,
                chunk_header_len: 0,
                chunk_header: |_, _| {},
                tail: Vec::new(),
                checksum_len: 0,
            }),
            Compression::Zstd => Some(zstd_frame::layout(plain_len)),
            Compression::Xz => Some(xz::layout(plain_len)),
            Compression::Bzip2 => None,
            Compression::Brotli => Some(brotli::layout(plain_len)),
            Compression::Gzip => Some(gzip::layout(plain_len)),
            Compression::Lz4 => Some(lz4::layout(plain_len)),
        })
    }

    /// The length of the whole stream.
    pub(super) fn encoded_len(&self, plain_len: u64) -> u64 {
        let chunks = plain_len.div_ceil(self.chunk_len);
        self.head_len() + chunks * self.chunk_header_len + plain_len + self.tail_len()
    }

    /// The place of the byte at `offset`, which is not beyond the end.
    pub(super) fn place(&self, plain_len: u64, offset: u64) -> Place {
        let Some(in_body) = offset.checked_sub(self.head_len()) else {
            return Place { plain: 0, framing_passed: offset };
        };
        let tail_start = self.encoded_len(plain_len) - self.tail_len();
        if let Some(in_tail) = offset.checked_sub(tail_start) {
            let before = if plain_len == 0 { self.head_len() } else { 0 };
            return Place { plain: plain_len, framing_passed: before + in_tail };
        }
        let stride = self.chunk_header_len + self.chunk_len;
        let (chunk, in_chunk) = (in_body / stride, in_body % stride);
        let chunk_start = chunk * self.chunk_len;
        if let Some(in_data) = in_chunk.checked_sub(self.chunk_header_len).filter(|&n| n > 0) {
            return Place { plain: chunk_start + in_data, framing_passed: 0 };
        }
        let before = if chunk == 0 { self.head_len() } else { 0 };
        Place { plain: chunk_start, framing_passed: before + in_chunk }
    }

    /// Appends the framing that lies right before a plain byte; at the plain end there is none but
    /// the tail.
    pub(super) fn framing_before(&self, plain: u64, plain_len: u64, out: &mut Vec<u8>) {
        if plain == 0 {
            out.extend_from_slice(&self.head);
        }
        let left = plain_len - plain;
        if left > 0 && plain.is_multiple_of(self.chunk_len) {
            let chunk = Chunk {
                len: left.min(self.chunk_len) as u32,
                is_first: plain == 0,
                is_last: left <= self.chunk_len,
            };
            (self.chunk_header)(chunk, out);
        }
    }

    fn head_len(&self) -> u64 {
        self.head.len() as u64
    }

    fn tail_len(&self) -> u64 {
        self.tail.len() as u64 + self.checksum_len
    }
}
