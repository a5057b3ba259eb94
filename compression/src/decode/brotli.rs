//! brotli: one stream, which says itself where it ends.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::super::{Compression, Error};
use super::pump::{Codec, Step};

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

pub(super) struct Brotli {
    // Some kilobytes of tables: too large to move about.
    state: Box<State>,
    ended: bool,
}

impl Brotli {
    pub(super) fn new() -> Self {
        // Strict means the windows of RFC 7932, at most 16 MiB, not the 1 GiB of its extension.
        let alloc = StandardAlloc::default;
        Self { state: Box::new(State::new_strict(alloc(), alloc(), alloc())), ended: false }
    }
}

impl Codec for Brotli {
    const COMPRESSION: Compression = Compression::Brotli;

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        if self.ended {
            if !input.is_empty() {
                return Err(Error::TrailingBytes(Compression::Brotli));
            }
            return Ok(Step { read: 0, wrote: 0 });
        }
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut wrote, mut total) = (output.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut wrote,
            output,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => {
                Err(Error::corrupt(Compression::Brotli, format!("{:?}", self.state.error_code)))
            }
            BrotliResult::ResultSuccess
            | BrotliResult::NeedsMoreInput
            | BrotliResult::NeedsMoreOutput => {
                self.ended = matches!(result, BrotliResult::ResultSuccess);
                Ok(Step { read, wrote })
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}
