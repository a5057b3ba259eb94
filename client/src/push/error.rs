//! Why a push came to nothing.

use crate::http;

/// Why a push, and not only one of its paths, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The server could not be asked, or said no.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The server's answer makes no sense.
    #[error("the server's answer is not one ({0}): is it as new as this client?")]
    Protocol(&'static str),
    /// The cache is for another store directory.
    #[error(
        "cache {cache} holds paths of {remote}, and these are of {local}: push to a cache with that \
         store directory"
    )]
    StoreDir {
        /// The cache.
        cache: String,
        /// Store directory here.
        local: String,
        /// Store directory there.
        remote: String,
    },
    /// A part size that leaves no room for a chunk.
    #[error("the part size has to be at least {} bytes", super::MIN_PART_SIZE)]
    PartSize,
    /// Nothing can be compressed, for want of memory.
    #[error("cannot compress: {0}")]
    Compression(#[source] std::io::Error),
    /// A thread ended.
    #[error("a worker ended unexpectedly: {0}")]
    Worker(#[from] tokio::task::JoinError),
}
