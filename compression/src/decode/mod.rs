//! Reading: one streaming decoder per format behind [`decoder`].
//!
//! Formats whose library steps from buffer to buffer are [`Codec`]s driven by [`Pump`]; gzip and
//! lz4 come as readers and are watched by [`Watched`].

mod brotli;
mod bzip2;
mod gzip;
mod lz4;
mod pump;
mod watched;
mod xz;
mod zstd;

use std::io::{BufRead, Read};

pub use self::xz::MAX_XZ_MEMORY;
pub use self::zstd::MAX_ZSTD_WINDOW_LOG;
use super::{Compression, Error};

/// A reader of the plain bytes behind `source`.
///
/// - All frames, streams or members in a row are read. An end inside one is
///   [`Error::Truncated`]; so is an input of no bytes. (An end *between* two looks whole: what was
///   cut off there only the NAR inside can tell.)
/// - Anything else after the end is an error, so `source` must end with the compressed bytes.
/// - Memory is bounded whatever the headers say: see [`MAX_ZSTD_WINDOW_LOG`], [`MAX_XZ_MEMORY`];
///   brotli needs at most some 17 MiB (no large windows), the others less than 10 MiB.
/// - Errors of the format are an [`Error`] inside the [`std::io::Error`]; errors of `source` pass
///   unchanged. [`Error::from`] tells them apart. After an error every further read is one.
///
/// Every byte is decoded straight into the buffer of the caller: read with large buffers (256 KiB
/// and more), and give a `source` that has large ones too. [`Compression::None`] is `source` itself.
pub fn decoder<'a, R: BufRead + Send + 'a>(
    compression: Compression,
    source: R,
) -> Result<Box<dyn Read + Send + 'a>, Error> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Zstd => Box::new(pump::Pump::new(source, zstd::Zstd::new()?)),
        Compression::Xz => Box::new(pump::Pump::new(source, xz::Xz::new()?)),
        Compression::Bzip2 => Box::new(pump::Pump::new(source, bzip2::Bzip2::new())),
        Compression::Brotli => Box::new(pump::Pump::new(source, brotli::Brotli::new())),
        Compression::Gzip => Box::new(gzip::Gzip::new(source)),
        Compression::Lz4 => Box::new(lz4::Lz4::new(source)),
    })
}

#[cfg(test)]
mod tests;
