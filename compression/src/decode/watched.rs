//! A reader that remembers what it has seen, so that a decoder's errors can be told from its own.

use std::io::{self, BufRead, Read};

use super::super::{Compression, Error};

pub(super) struct Watched<R> {
    inner: R,
    /// The reader has failed.
    failed: bool,
    /// The reader has been asked for bytes and had none left.
    asked_past_end: bool,
}

impl<R: BufRead> Watched<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, failed: false, asked_past_end: false }
    }

    /// Whether the reader has been asked for bytes and had none left.
    pub(super) const fn asked_past_end(&self) -> bool {
        self.asked_past_end
    }

    /// What to tell of an error the decoder gave: in our words if it is the decoder's, unchanged
    /// if it is the reader's.
    pub(super) fn explain(&self, compression: Compression, error: io::Error) -> io::Error {
        if self.failed {
            error
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            Error::Truncated(compression).into()
        } else {
            Error::corrupt(compression, error).into()
        }
    }

    /// Waits for bytes; false is the end, for good. Interruptions stay inside: the decoders cannot
    /// go on after one.
    fn wait(&mut self) -> io::Result<bool> {
        if self.asked_past_end {
            return Ok(false);
        }
        loop {
            match self.inner.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failed = true;
                    return Err(e);
                }
                Ok(bytes) => {
                    self.asked_past_end |= bytes.is_empty();
                    return Ok(!self.asked_past_end);
                }
            }
        }
    }
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.wait()? { self.inner.read(buffer) } else { Ok(0) }
    }
}

impl<R: BufRead> BufRead for Watched<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.wait()? { self.inner.fill_buf() } else { Ok(&[]) }
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}
