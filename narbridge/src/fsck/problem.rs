//! What can be wrong with what a cache says, as values.

use std::fmt;
use std::sync::Arc;

use castore::{Digest, StoreError};

use crate::cache::CacheName;
use crate::records::RecordError;

/// Something in a cache that cannot be served as it should.
#[derive(Debug)]
pub struct HouseProblem {
    /// The cache.
    pub cache: CacheName,
    /// Whether that was destroyed.
    pub destroyed: bool,
    /// What in it.
    pub subject: Subject,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for HouseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destroyed = if self.destroyed { " (destroyed)" } else { "" };
        write!(f, "cache {}{destroyed}: {}: {}", self.cache, self.subject, self.flaw)
    }
}

/// What a cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A store path; its hash part where the rest cannot be read.
    Path(String),
    /// A NAR, by the hash it is named after.
    Nar(String),
    /// A log, debug info or realisation.
    File(String),
}

impl Subject {
    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Path(name) | Self::Nar(name) | Self::File(name) => name,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Nar(name) => write!(f, "nar {name}"),
            Self::File(name) => write!(f, "file {name}"),
        }
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Its key is not a hash.
    #[error("its key is not a hash")]
    Key,
    /// Its record does not decode.
    #[error(transparent)]
    Record(RecordError),
    /// It is not called as a store path can be.
    #[error("`{0}` is not the name of a store path")]
    Name(String),
    /// It refers to something that is not a store path.
    #[error("it refers to `{0}`, which is not a store path")]
    Reference(String),
    /// The URL that its narinfo gives leads nowhere.
    #[error("its NAR is not known by its hash, so nobody can fetch it")]
    NoNar,
    /// Record and tree do not say the same.
    #[error("its record names another root than its tree")]
    Root,
    /// Its contents are not all there.
    #[error("{0}")]
    Tree(Arc<TreeProblem>),
}

/// What is wrong with a tree, which several paths may have.
#[derive(Debug, thiserror::Error)]
#[error("{first}{}", and_more(.more))]
pub struct TreeProblem {
    /// The first thing that was found.
    pub first: TreeFlaw,
    /// How many more there are.
    pub more: u64,
}

fn and_more(more: &u64) -> String {
    if *more == 0 { String::new() } else { format!(", and {more} more") }
}

/// One thing that is wrong with a tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeFlaw {
    /// The tree or a chunk list is missing, damaged, or not what its name says.
    #[error(transparent)]
    Store(StoreError),
    /// A chunk is not in the store.
    #[error("chunk {0} is not in the store")]
    MissingChunk(Digest),
    /// A chunk has another length than its list or its file says.
    #[error("chunk {0} has not the length that is given for it")]
    ChunkLength(Digest),
    /// A chunk was found damaged when the packs were read.
    #[error("chunk {0} is damaged")]
    DamagedChunk(Digest),
}
