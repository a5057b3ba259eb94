//! What the fuzz targets share.

use std::io::{self, BufRead, Read};

/// Gives bytes in pieces of changing length, as a network does. The cuts depend on the seed alone,
/// so that a crash is found again.
pub struct Pieces<'a> {
    left: &'a [u8],
    state: u32,
    piece: usize,
}

impl<'a> Pieces<'a> {
    /// The longest piece.
    const MAX: u32 = 64;

    /// `data`, cut as `seed` says.
    pub fn new(data: &'a [u8], seed: u8) -> Self {
        Self { left: data, state: 1 + u32::from(seed), piece: 0 }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece == 0 {
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.piece = (1 + (self.state >> 16) % Self::MAX) as usize;
        }
        Ok(&self.left[..self.piece.min(self.left.len())])
    }

    fn consume(&mut self, n: usize) {
        self.left = &self.left[n..];
        self.piece = self.piece.saturating_sub(n);
    }
}
