//! The encoder: feeds plain bytes through a [`Layout`], or through bzip2.

use super::super::{Compression, Error};
use super::bzip2::Bzip2;
use super::gzip::Trailer;
use super::layout::Layout;

/// Wraps a known number of plain bytes in a format, without compressing them.
///
/// The output is a function of the compression and the plain bytes alone: it does not depend on how
/// they are cut when fed, and an encoder [resumed](Self::resume_at) at any offset writes what the
/// whole output has from there on. bzip2 has no form for uncompressed bytes: it is compressed for
/// real, its length is not known beforehand, and other versions of this program may write other
/// bytes.
///
/// Overhead: zstd 3 bytes in 128 KiB, xz and brotli 3 in 64 KiB, gzip 5 in 64 KiB, lz4 4 in 256 KiB.
pub struct StoredEncoder {
    compression: Compression,
    plain_len: u64,
    plain_pos: u64,
    /// Bytes of output still to be dropped, which lie before the wanted start.
    skip: u64,
    body: Body,
}

enum Body {
    Stored { layout: Layout, framing_is_due: bool, trailer: Option<Trailer> },
    // Boxed for its size.
    Bzip2(Box<Bzip2>),
}

impl StoredEncoder {
    /// An encoder of `plain_len` bytes, at most [`MAX_PLAIN_LEN`](super::MAX_PLAIN_LEN).
    pub fn new(compression: Compression, plain_len: u64) -> Result<Self, Error> {
        let body = match Layout::of(compression, plain_len)? {
            Some(layout) => Body::Stored {
                trailer: (compression == Compression::Gzip).then(Trailer::new),
                layout,
                framing_is_due: true,
            },
            None => Body::Bzip2(Box::new(Bzip2::new())),
        };
        Ok(Self { compression, plain_len, plain_pos: 0, skip: 0, body })
    }

    /// An encoder whose output starts at byte `offset` of the whole output.
    ///
    /// Feed it the plain bytes from [`plain_pos`](Self::plain_pos) on. A range of the output that
    /// ends before the whole does needs the plain bytes up to the `plain_pos` of an encoder resumed
    /// at its end; if those are all there are, it needs [`finish`](Self::finish) too. What comes out
    /// beyond the range, less than 80 bytes of framing, is for the caller to cut off.
    ///
    /// gzip (for its checksum) and bzip2 have to be fed from the start; what lies before `offset` is
    /// dropped here. An offset beyond the end is [`Error::OutOfRange`], where the end is known.
    pub fn resume_at(compression: Compression, plain_len: u64, offset: u64) -> Result<Self, Error> {
        let mut encoder = Self::new(compression, plain_len)?;
        if let Some(len) = encoder.encoded_len().filter(|&len| offset > len) {
            return Err(Error::OutOfRange { compression, len, offset });
        }
        encoder.skip = offset;
        if let Body::Stored { layout, trailer: None, .. } = &encoder.body {
            let place = layout.place(plain_len, offset);
            encoder.plain_pos = place.plain;
            encoder.skip = place.framing_passed;
        }
        Ok(encoder)
    }

    /// The length of the whole output (from byte 0 on, wherever this encoder starts); unknown for
    /// bzip2.
    #[must_use]
    pub fn encoded_len(&self) -> Option<u64> {
        match &self.body {
            Body::Stored { layout, .. } => Some(layout.encoded_len(self.plain_len)),
            Body::Bzip2(_) => None,
        }
    }

    /// The offset of the plain byte to feed next.
    #[must_use]
    pub const fn plain_pos(&self) -> u64 {
        self.plain_pos
    }

    /// Takes the next plain bytes, perhaps none, and appends to `out` what they become, with the
    /// framing before and behind them.
    ///
    /// Takes nothing and is [`Error::PlainLength`] if that makes more bytes than promised.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let end = self.plain_pos.saturating_add(plain.len() as u64);
        if end > self.plain_len {
            return Err(self.wrong_length(end));
        }
        let skip = &mut self.skip;
        match &mut self.body {
            Body::Stored { layout, framing_is_due, trailer } => {
                if let Some(trailer) = trailer {
                    trailer.update(plain);
                }
                let mut framing = Vec::new();
                if std::mem::take(framing_is_due) {
                    layout.framing_before(self.plain_pos, self.plain_len, &mut framing);
                    append(out, skip, &framing);
                }
                let mut plain = plain;
                while !plain.is_empty() {
                    let to_chunk_end = layout.chunk_len - self.plain_pos % layout.chunk_len;
                    let now =
                        usize::try_from(to_chunk_end).map_or(plain.len(), |n| n.min(plain.len()));
                    let (data, rest) = plain.split_at(now);
                    append(out, skip, data);
                    plain = rest;
                    self.plain_pos += now as u64;
                    framing.clear();
                    layout.framing_before(self.plain_pos, self.plain_len, &mut framing);
                    append(out, skip, &framing);
                }
            }
            Body::Bzip2(bzip2) => {
                through_skip(out, skip, |out| bzip2.encode(plain, out))?;
                self.plain_pos = end;
            }
        }
        Ok(())
    }

    /// Appends to `out` what ends the output.
    ///
    /// Is [`Error::PlainLength`] if fewer bytes than promised have been fed.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.plain_pos != self.plain_len {
            return Err(self.wrong_length(self.plain_pos));
        }
        self.encode(&[], out)?;
        match self.body {
            Body::Stored { layout, trailer, .. } => {
                append(out, &mut self.skip, &layout.tail);
                if let Some(trailer) = trailer {
                    append(out, &mut self.skip, &trailer.finish(self.plain_len));
                }
                Ok(())
            }
            Body::Bzip2(mut bzip2) => through_skip(out, &mut self.skip, |out| bzip2.finish(out)),
        }
    }

    const fn wrong_length(&self, got: u64) -> Error {
        Error::PlainLength { compression: self.compression, expected: self.plain_len, got }
    }
}

/// Appends the bytes that are not to be skipped.
fn append(out: &mut Vec<u8>, skip: &mut u64, bytes: &[u8]) {
    let dropped = usize::try_from(*skip).map_or(bytes.len(), |n| n.min(bytes.len()));
    *skip -= dropped as u64;
    out.extend_from_slice(&bytes[dropped..]);
}

/// Lets `write` append, by a detour if some of it is to be skipped.
fn through_skip(
    out: &mut Vec<u8>,
    skip: &mut u64,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    if *skip == 0 {
        return write(out);
    }
    let mut all = Vec::new();
    write(&mut all)?;
    append(out, skip, &all);
    Ok(())
}
