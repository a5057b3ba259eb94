//! The compressions Nix puts around a NAR: read any of them, serve any of them.
//!
//! Granary keeps a NAR as chunks, never as the bytes that were uploaded; yet the URL a client
//! uploaded to must go on answering in the format it was uploaded in, because the client remembers
//! its own narinfo for 30 days. So this crate holds both directions:
//!
//! - [`decoder`] streams an upload's plain bytes, whatever the format, strictly: a cut input, bytes
//!   after the end, a wrong checksum or a header that asks for too much memory are errors.
//! - [`StoredEncoder`] wraps plain bytes in a format's framing without compressing them. It costs a
//!   copy, its length is known beforehand, and (but for gzip and bzip2) it can start at any byte.
//! - [`zstd_frame`] makes zstd frames of raw blocks, which go between frames kept compressed.
//! - [`decode_small`] undoes a `Content-Encoding` on a body that is held in memory anyway.
//!
//! Formats: zstd RFC 8878, brotli RFC 7932, gzip RFC 1952 and deflate RFC 1951, `.xz` 1.2.0
//! (tukaani.org/xz/xz-file-format.txt), the LZ4 frame format 1.6. bzip2 has no specification
//! but its source.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod decode;
mod error;
mod format;
mod small;
mod stored;
#[cfg(test)]
mod testing;

pub use decode::{MAX_XZ_MEMORY, MAX_ZSTD_WINDOW_LOG, decoder};
pub use error::Error;
pub use format::{Compression, SNIFF_LEN};
pub use small::decode_small;
pub use stored::{MAX_PLAIN_LEN, StoredEncoder, zstd_frame};
