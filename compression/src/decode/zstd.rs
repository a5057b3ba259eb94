//! zstd: any number of frames, skippable ones among them.

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::super::{Compression, Error};
use super::pump::{Codec, Step};

/// The largest window a zstd frame may ask for, as a power of two: 128 MiB.
///
/// What `zstd --long` makes (27) and every level up to `--ultra -22` fit in it.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;

pub(super) struct Zstd {
    decoder: Decoder<'static>,
    whole: bool,
    frames_seen: bool,
}

impl Zstd {
    pub(super) fn new() -> Result<Self, Error> {
        let out_of_memory = |_| Error::OutOfMemory(Compression::Zstd);
        let mut decoder = Decoder::new().map_err(out_of_memory)?;
        decoder
            .set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG))
            .map_err(out_of_memory)?;
        Ok(Self { decoder, whole: false, frames_seen: false })
    }

    fn explain(&self, error: std::io::Error) -> Error {
        let kind_is = |kind| {
            error
                .get_ref()
                .and_then(|e| e.downcast_ref::<zstd::Error>())
                .is_some_and(|e| e.is(kind))
        };
        if kind_is(ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge) {
            Error::MemoryLimit { compression: Compression::Zstd, limit: 1 << MAX_ZSTD_WINDOW_LOG }
        } else if kind_is(ZSTD_ErrorCode::ZSTD_error_memory_allocation) {
            Error::OutOfMemory(Compression::Zstd)
        } else if self.frames_seen && kind_is(ZSTD_ErrorCode::ZSTD_error_prefix_unknown) {
            Error::TrailingBytes(Compression::Zstd)
        } else {
            Error::corrupt(Compression::Zstd, error)
        }
    }
}

impl Codec for Zstd {
    const COMPRESSION: Compression = Compression::Zstd;

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        if self.whole && input.is_empty() {
            return Ok(Step { read: 0, wrote: 0 });
        }
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let missing = self.decoder.run(&mut from, &mut to).map_err(|e| self.explain(e))?;
        let step = Step { read: from.pos(), wrote: to.pos() };
        self.whole = missing == 0;
        self.frames_seen |= self.whole;
        Ok(step)
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}
