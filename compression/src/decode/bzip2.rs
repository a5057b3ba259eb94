//! bzip2: any number of streams, as `pbzip2` writes.

use bzip2::{Decompress, Error as BzError, Status};

use super::super::{Compression, Error};
use super::pump::{Codec, Step};

pub(super) struct Bzip2 {
    stream: Decompress,
    ended: bool,
    streams_seen: bool,
}

impl Bzip2 {
    pub(super) fn new() -> Self {
        Self { stream: Decompress::new(false), ended: false, streams_seen: false }
    }
}

impl Codec for Bzip2 {
    const COMPRESSION: Compression = Compression::Bzip2;

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        if self.ended {
            if input.is_empty() {
                return Ok(Step { read: 0, wrote: 0 });
            }
            self.stream = Decompress::new(false);
            self.ended = false;
        }
        let (in_before, out_before) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, output).map_err(|error| match error {
            BzError::DataMagic if self.streams_seen => Error::TrailingBytes(Compression::Bzip2),
            other => Error::corrupt(Compression::Bzip2, other),
        })?;
        match status {
            Status::StreamEnd => {
                self.ended = true;
                self.streams_seen = true;
            }
            Status::MemNeeded => return Err(Error::OutOfMemory(Compression::Bzip2)),
            _ => {}
        }
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
