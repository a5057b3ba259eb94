//! What can go wrong with compressed bytes, and whose fault it is.

use std::io;

use super::Compression;

/// Why compressed bytes could not be read, or plain bytes not be wrapped.
///
/// A [`decoder`](super::decoder) is an [`io::Read`], so it carries these inside an [`io::Error`];
/// [`Error::from`] takes them out again and tells them from the errors of the reader underneath,
/// which become [`Error::Read`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No compression has this name.
    #[error("no compression is called {0:?}")]
    UnknownName(String),
    /// The input ends before its format says so.
    #[error("{0} input is truncated")]
    Truncated(Compression),
    /// The input goes on after its end with something else.
    ///
    /// Told for zstd, bzip2 and brotli; the other formats' libraries call it corrupt.
    #[error("{0} input goes on after its end with bytes of another kind")]
    TrailingBytes(Compression),
    /// The input breaks its format, or a checksum in it is wrong.
    #[error("{compression} input is corrupt")]
    Corrupt {
        /// The format the input was read as.
        compression: Compression,
        /// What the format's library says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Decoding the input would take more memory than is allowed.
    #[error("{compression} input needs more memory than the {limit} bytes allowed")]
    MemoryLimit {
        /// The format the input was read as.
        compression: Compression,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The format's library could not get the memory it needs: this side's fault, not the input's.
    #[error("no memory for a {0} codec")]
    OutOfMemory(Compression),
    /// The decoder was read again after it had failed.
    #[error("the {0} decoder has failed before")]
    FailedBefore(Compression),
    /// A body decodes to more bytes than the caller allows.
    #[error("{compression} body decodes to more than {limit} bytes")]
    TooLong {
        /// The format of the body.
        compression: Compression,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The reader that the compressed bytes come from has failed.
    #[error("the compressed bytes could not be read")]
    Read(#[source] io::Error),
    /// An encoder was asked for more than [`MAX_PLAIN_LEN`](super::MAX_PLAIN_LEN) bytes.
    #[error("{0} bytes are too many to frame")]
    PlainTooLong(u64),
    /// An encoder was fed another number of bytes than promised.
    #[error("the {compression} encoder was promised {expected} bytes and got {got}")]
    PlainLength {
        /// The format being written.
        compression: Compression,
        /// The promised number.
        expected: u64,
        /// How many there were, counting those that were refused.
        got: u64,
    },
    /// An encoder was asked to start beyond the end of its output.
    #[error("{compression} output of {len} bytes has no byte {offset}")]
    OutOfRange {
        /// The format being written.
        compression: Compression,
        /// How long the output is.
        len: u64,
        /// Where it was to start.
        offset: u64,
    },
}

impl Error {
    pub(super) fn corrupt(
        compression: Compression,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { compression, source: source.into() }
    }
}

/// Takes out the error a decoder put into an [`io::Error`]; any other is [`Error::Read`].
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Read)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Read(_) => io::ErrorKind::Other,
            Error::Truncated(_) => io::ErrorKind::UnexpectedEof,
            Error::OutOfMemory(_) => io::ErrorKind::OutOfMemory,
            Error::UnknownName(_)
            | Error::PlainTooLong(_)
            | Error::PlainLength { .. }
            | Error::OutOfRange { .. } => io::ErrorKind::InvalidInput,
            Error::TrailingBytes(_)
            | Error::Corrupt { .. }
            | Error::MemoryLimit { .. }
            | Error::FailedBefore(_)
            | Error::TooLong { .. } => io::ErrorKind::InvalidData,
        };
        match error {
            Error::Read(reader_error) => reader_error,
            other => Self::new(kind, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_io() {
        let io_error = io::Error::from(Error::Truncated(Compression::Xz));
        assert_eq!(io_error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(io_error.to_string().contains("truncated"));
        assert!(matches!(Error::from(io_error), Error::Truncated(Compression::Xz)));
    }

    #[test]
    fn a_reader_s_own_error_stays_itself() {
        let error = Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(matches!(&error, Error::Read(e) if e.kind() == io::ErrorKind::ConnectionReset));
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionReset);
    }
}
