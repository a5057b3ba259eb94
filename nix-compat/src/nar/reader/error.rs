//! What can be wrong with a NAR, and where.

use std::fmt;
use std::io;

use crate::nar::rules::{Quoted, Violation};

/// Why a NAR could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a NAR.
    #[error("not a valid NAR at {at}: {problem}")]
    Malformed {
        /// Where.
        at: Place,
        /// What.
        problem: Problem,
    },
    /// The bytes could not be had.
    #[error("cannot read the NAR at {at}")]
    Io {
        /// Where.
        at: Place,
        /// What the underlying reader said.
        source: io::Error,
    },
}

impl Error {
    /// Where in the NAR it happened.
    pub fn place(&self) -> &Place {
        match self {
            Error::Malformed { at, .. } | Error::Io { at, .. } => at,
        }
    }
}

/// A place in a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Bytes of the NAR before it.
    pub offset: u64,
    /// The node being read, relative to the root; empty for the root.
    pub path: Vec<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.offset)?;
        if !self.path.is_empty() {
            write!(f, ", in {}", Quoted(&self.path))?;
        }
        Ok(())
    }
}

/// What is wrong with the bytes of a NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The input ends inside the NAR.
    #[error("the input ends here")]
    Truncated,
    /// A literal of the grammar is missing.
    #[error("expected {0}")]
    Expected(&'static str),
    /// The zero bytes after a string are not all zero.
    #[error("the padding is not zero")]
    Padding,
    /// A name, a target or the shape of the tree is not allowed.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Bytes follow the end of the NAR.
    #[error("the input goes on after the end of the NAR")]
    TrailingBytes,
    /// The reader was used again after an error.
    #[error("reading went on after an error")]
    AfterError,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Malformed { problem: Problem::Truncated, .. } => io::ErrorKind::UnexpectedEof,
            Error::Malformed { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
