//! Drives a buffer-to-buffer codec from a reader, and judges how the input ends.

use std::io::{self, BufRead, Read};

use super::super::{Compression, Error};

/// A decompressor that moves bytes from one buffer to another.
pub(super) trait Codec: Send {
    /// The format it reads.
    const COMPRESSION: Compression;

    /// Decodes some of `input` to the start of `output`, which is not empty.
    ///
    /// An empty `input` is the end of the input, for good. Doing nothing means that more input is
    /// needed to go on.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error>;

    /// Whether all input so far makes a whole: nothing is missing, nothing is left to give out.
    fn is_whole(&self) -> bool;
}

/// What one step did, in bytes.
pub(super) struct Step {
    /// Taken from the input.
    pub read: usize,
    /// Put to the output.
    pub wrote: usize,
}

/// A codec on a reader.
pub(super) struct Pump<R, C> {
    source: R,
    codec: C,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Running,
    /// The source has ended; it is not asked again.
    Draining,
    Done,
    Failed,
}

impl<R: BufRead, C: Codec> Pump<R, C> {
    pub(super) const fn new(source: R, codec: C) -> Self {
        Self { source, codec, state: State::Running }
    }

    fn advance(&mut self, output: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = match self.state {
                State::Draining => &[],
                _ => match self.source.fill_buf() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    input => input?,
                },
            };
            let ended = input.is_empty();
            let step = self.codec.step(input, output)?;
            if ended {
                self.state = State::Draining;
            } else {
                self.source.consume(step.read);
            }
            if step.wrote > 0 {
                return Ok(step.wrote);
            }
            if ended {
                if !self.codec.is_whole() {
                    return Err(Error::Truncated(C::COMPRESSION).into());
                }
                self.state = State::Done;
                return Ok(0);
            }
            if step.read == 0 {
                // A codec that neither takes nor gives would spin for ever.
                return Err(Error::corrupt(C::COMPRESSION, "decoding makes no progress").into());
            }
        }
    }
}

impl<R: BufRead, C: Codec> Read for Pump<R, C> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        match self.state {
            _ if output.is_empty() => Ok(0),
            State::Done => Ok(0),
            State::Failed => Err(Error::FailedBefore(C::COMPRESSION).into()),
            State::Running | State::Draining => {
                let result = self.advance(output);
                if result.is_err() {
                    self.state = State::Failed;
                }
                result
            }
        }
    }
}
