//! Cutting a file into chunks: FastCDC as of 2020.
//!
//! The parameters are part of the format: other ones would cut the same file elsewhere and
//! nothing would be shared with what is stored already. An average of 128 KiB is where smaller
//! chunks stop paying for themselves on real trees of programs.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::FastCDC;

/// No chunk is shorter, but for the last one of a file.
pub const MIN_CHUNK: usize = 32 * 1024;
/// What the cut points aim at.
pub const AVG_CHUNK: usize = 128 * 1024;
/// No chunk is longer.
pub const MAX_CHUNK: usize = 512 * 1024;

/// How much a chunker gathers before it looks for cut points: larger saves allocations, smaller
/// saves memory per upload.
const BUFFER: usize = 2 * MAX_CHUNK;

/// Cuts a stream of bytes into chunks. Holds at most 1 MiB.
#[derive(Default)]
pub struct Chunker {
    buffer: BytesMut,
}

impl Chunker {
    /// Takes `data` in and hands every chunk that is complete to `emit`.
    pub fn write(&mut self, mut data: &[u8], mut emit: impl FnMut(Bytes)) {
        while !data.is_empty() {
            if self.buffer.is_empty() {
                self.buffer.reserve(BUFFER);
            }
            let (now, later) = data.split_at(data.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            data = later;
            if self.buffer.len() == BUFFER {
                self.cut(MAX_CHUNK, &mut emit);
            }
        }
    }

    /// Cuts a whole file that is in memory already.
    pub fn cut_whole(&mut self, data: &Bytes, mut emit: impl FnMut(Bytes)) {
        let cutter = FastCDC::new(data, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
        for chunk in cutter {
            emit(data.slice(chunk.offset..chunk.offset + chunk.length));
        }
    }

    /// Ends the file: what is left comes out.
    pub fn finish(&mut self, mut emit: impl FnMut(Bytes)) {
        self.cut(0, &mut emit);
    }

    /// Emits chunks while more than `keep` bytes are left: a cut point is only certain when a
    /// whole maximal chunk can be seen, or the file ends.
    fn cut(&mut self, keep: usize, emit: &mut impl FnMut(Bytes)) {
        let data = std::mem::take(&mut self.buffer).freeze();
        let cutter = FastCDC::new(&data, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
        let mut start = 0;
        while data.len() - start > keep {
            let (_, end) = cutter.cut(start, data.len() - start);
            emit(data.slice(start..end));
            start = end;
        }
        if start < data.len() {
            self.buffer.reserve(BUFFER);
            self.buffer.extend_from_slice(&data[start..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a pattern, the same at every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn chunks(data: &[u8], step: usize) -> Vec<Bytes> {
        let (mut chunker, mut out) = (Chunker::default(), Vec::new());
        for piece in data.chunks(step) {
            chunker.write(piece, |chunk| out.push(chunk));
        }
        chunker.finish(|chunk| out.push(chunk));
        out
    }

    #[test]
    fn cut_points_do_not_depend_on_how_the_bytes_arrive() {
        let data = noise(5_000_000);
        let whole: Vec<usize> = FastCDC::new(&data, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK)
            .map(|chunk| chunk.length)
            .collect();
        for step in [1_000, 65_536, 700_001, 5_000_000] {
            let cut = chunks(&data, step);
            assert_eq!(cut.iter().map(Bytes::len).collect::<Vec<_>>(), whole, "step {step}");
            assert_eq!(cut.concat(), data);
        }
    }

    #[test]
    fn cut_points_are_the_format_and_never_move() {
        let lengths: Vec<usize> = chunks(&noise(1_000_000), 4096).iter().map(Bytes::len).collect();
        assert_eq!(lengths, GOLDEN);
    }

    const GOLDEN: [usize; 5] = [149_670, 381_545, 93_777, 200_647, 174_361];
}
