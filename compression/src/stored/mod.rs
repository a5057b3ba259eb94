//! Writing: plain bytes in a format's framing, not compressed where the format allows that.

mod brotli;
mod bzip2;
mod encoder;
mod gzip;
mod layout;
mod lz4;
mod xz;
pub mod zstd_frame;

pub use encoder::StoredEncoder;
pub use layout::MAX_PLAIN_LEN;

#[cfg(test)]
mod tests;
