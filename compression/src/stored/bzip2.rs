//! bzip2, which has no stored form and is compressed for real.

use bzip2::{Action, Compress, Compression as Level, Status};

use super::super::{Compression, Error};

/// Room made in the output before each step.
const STEP: usize = 64 << 10;

pub(super) struct Bzip2(Compress);

impl Bzip2 {
    /// Blocks of 100 kB: the least memory, and (measured) as fast as any other size.
    pub(super) fn new() -> Self {
        Self(Compress::new(Level::fast(), 0))
    }

    pub(super) fn encode(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !plain.is_empty() {
            let before = self.0.total_in();
            self.step(plain, out, Action::Run)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(plain.len());
            plain = &plain[taken..];
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        while self.step(&[], out, Action::Finish)? != Status::StreamEnd {}
        Ok(())
    }

    fn step(&mut self, plain: &[u8], out: &mut Vec<u8>, action: Action) -> Result<Status, Error> {
        out.reserve(STEP);
        self.0
            .compress_vec(plain, out, action)
            .map_err(|error| Error::corrupt(Compression::Bzip2, error))
    }
}
