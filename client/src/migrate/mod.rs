//! Copying paths from any binary cache to one of Granary's.
//!
//! A [`Source`] is a cache that is read. [`gather()`] follows narinfos from their roots, holds each
//! against the keys that are trusted, and says what can be copied. [`crate::push::plan()`] leaves
//! out what the target has, and [`crate::push::push_from()`] pushes the rest from a [`Fetcher`],
//! which downloads NARs, unpacks and verifies them, and removes them once they are published: only
//! chunks that the target lacks travel on, and the disk holds a bounded number of paths. Nothing is
//! remembered, so what was broken off is resumed by doing it again.

mod error;
mod fetch;
mod gather;
mod nar;
mod source;
mod trust;

pub use error::SourceError;
pub use fetch::Fetcher;
pub use gather::{GatherOptions, Gathered, Roots, gather, path_info};
pub use source::{Secret, Source};
pub use trust::{Proof, Trust};

use crate::http;

/// Why nothing could be gathered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target.
    #[error(transparent)]
    Target(#[from] http::Error),
}
