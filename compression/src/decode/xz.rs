//! xz: any number of streams, with the padding the format allows between them.

use liblzma::stream::{Action, CONCATENATED, Error as LzmaError, Status, Stream};

use super::super::{Compression, Error};
use super::pump::{Codec, Step};

/// How much memory decoding an xz stream may take, in bytes.
///
/// `xz -9` needs 65 MiB for its dictionary of 64 MiB.
pub const MAX_XZ_MEMORY: u64 = 128 << 20;

pub(super) struct Xz {
    stream: Stream,
    ended: bool,
}

impl Xz {
    pub(super) fn new() -> Result<Self, Error> {
        let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, CONCATENATED)
            .map_err(|_| Error::OutOfMemory(Compression::Xz))?;
        Ok(Self { stream, ended: false })
    }
}

impl Codec for Xz {
    const COMPRESSION: Compression = Compression::Xz;

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        if self.ended {
            return Ok(Step { read: 0, wrote: 0 });
        }
        // liblzma cannot know that no further stream follows until it is told.
        let action = if input.is_empty() { Action::Finish } else { Action::Run };
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.process(input, output, action).map_err(|error| match error {
            LzmaError::MemLimit => {
                Error::MemoryLimit { compression: Compression::Xz, limit: MAX_XZ_MEMORY }
            }
            LzmaError::Mem => Error::OutOfMemory(Compression::Xz),
            other => Error::corrupt(Compression::Xz, other),
        })?;
        self.ended = status == Status::StreamEnd;
        let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        Ok(Step {
            read: moved(self.stream.total_in(), in_before),
            wrote: moved(self.stream.total_out(), out_before),
        })
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}
