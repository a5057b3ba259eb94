//! Why a source gave nothing, and what to do about it.

use std::io;
use std::path::PathBuf;

use reqwest::StatusCode;

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Not the address of a binary cache.
    #[error(
        "`{text}` is not a binary cache such as https://cache.example.org or file:///dir: {why}"
    )]
    Address {
        /// The text, unless there is a password in it.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// HTTP cannot be set up.
    #[error(transparent)]
    Setup(#[from] crate::http::Error),
    /// No connection, or one that broke.
    #[error("cannot get {url}: check the address and the network, and try again")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// 401 or 403.
    #[error(
        "{url}: {status}: the source wants a token (--from-token-file, GRANARY_FROM_TOKEN) or a \
         password (--netrc-file), or one that permits more"
    )]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// Any other answer.
    #[error("{url}: {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// An answer that makes no sense.
    #[error("{url}: {why}: is this a binary cache?")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file of the source.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not every source can say what it holds.
    #[error(
        "{0} does not tell what it holds, as only file:// caches and Granary's do: name store paths, \
         or pass a list of them with --stdin"
    )]
    NoList(String),
}

impl SourceError {
    /// Whether trying later may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => crate::http::retry::passes(*status),
            _ => false,
        }
    }
}
