//! LZ4: any number of frames.
//!
//! `lz4_flex` says "no more bytes" at a frame's end and also where its input ends between two
//! blocks. At the first it has not asked the input for more, at the second it has. Each frame gets
//! a decoder of its own: one does not expect a second frame to have another block size.

use std::io::{self, BufRead, Read};

use lz4_flex::frame::FrameDecoder;

use super::super::{Compression, Error};
use super::watched::Watched;

pub(super) struct Lz4<R: BufRead>(State<R>);

enum State<R: BufRead> {
    Running(FrameDecoder<Watched<R>>),
    Done,
    Failed,
}

impl<R: BufRead> Lz4<R> {
    pub(super) fn new(source: R) -> Self {
        Self(State::Running(FrameDecoder::new(Watched::new(source))))
    }

    /// Decodes on, and sets the state but to failure.
    fn advance(
        &mut self,
        mut decoder: FrameDecoder<Watched<R>>,
        output: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            match decoder.read(output) {
                Ok(0) if decoder.get_ref().asked_past_end() => {
                    return Err(Error::Truncated(Compression::Lz4).into());
                }
                Ok(0) => {
                    let mut source = decoder.into_inner();
                    if source.fill_buf()?.is_empty() {
                        self.0 = State::Done;
                        return Ok(0);
                    }
                    decoder = FrameDecoder::new(source);
                }
                Ok(n) => {
                    self.0 = State::Running(decoder);
                    return Ok(n);
                }
                Err(e) => return Err(decoder.get_ref().explain(Compression::Lz4, e)),
            }
        }
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        match std::mem::replace(&mut self.0, State::Failed) {
            State::Running(decoder) => self.advance(decoder, output),
            State::Done => {
                self.0 = State::Done;
                Ok(0)
            }
            State::Failed => Err(Error::FailedBefore(Compression::Lz4).into()),
        }
    }
}
