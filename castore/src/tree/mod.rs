//! Trees: what a root holds, as canonical protobuf.
//!
//! A [`Node`] is a file, a directory or a symlink. A [`Directory`] is a sorted set of named nodes;
//! its digest is the digest of its canonical encoding, in the schema that snix publishes as
//! `castore.proto`, so digests agree across projects. A [`ChunkList`] says which chunks make up a
//! blob. A [`Tree`] gathers everything below one root, so that a door needs a single record to
//! know every name, size and digest.

mod builder;
mod chunk_list;
mod directory;
mod node;
mod record;
mod wire;

pub use builder::{BuildError, MAX_TREE, TreeBuilder};
pub use chunk_list::{ChunkList, ChunkRef, Patch};
pub use directory::{Directory, Entry};
pub use node::{Node, NodeName, SymlinkTarget};
pub use record::Tree;

use crate::Digest;

/// How deep directories may be nested. Readers walk trees with a stack of this height.
pub const MAX_DEPTH: usize = 256;
/// How many entries the directories of a tree may have, counted wherever they appear. A directory
/// that appears twice is kept once, so a short record could stand for any number of them.
pub const MAX_ENTRIES: u64 = 1 << 21;

/// What is wrong with an encoded or a given tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The bytes are not protobuf of the expected message.
    #[error("{what} is not valid protobuf: {source}")]
    Protobuf {
        /// The message that was expected.
        what: &'static str,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// The bytes decode, but are not what this project would have written.
    #[error("{0} is not encoded canonically")]
    NotCanonical(&'static str),
    /// A digest field does not have 32 bytes.
    #[error("a digest has {0} bytes instead of 32")]
    DigestLength(usize),
    /// A name that no directory may hold.
    #[error("`{}` is not a name a directory can hold", .0.escape_ascii())]
    Name(Vec<u8>),
    /// A symlink target that no file system takes.
    #[error("`{}` is not a symlink target", .0.escape_ascii())]
    Target(Vec<u8>),
    /// Names repeat or are out of order.
    #[error("`{}` comes twice or out of order", .0.escape_ascii())]
    Order(Vec<u8>),
    /// A node without a kind, or a size that does not add up.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// Directories are nested too deep.
    #[error("directories are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// There are too many entries.
    #[error("there are more than {MAX_ENTRIES} entries in it")]
    TooManyEntries,
    /// A directory that the tree refers to is not in it.
    #[error("directory {0} is missing from its tree")]
    MissingDirectory(Digest),
}

fn digest_field(bytes: &[u8]) -> Result<Digest, TreeError> {
    Digest::from_slice(bytes).ok_or(TreeError::DigestLength(bytes.len()))
}
