//! The push protocol.
//!
//! A pusher asks which store paths are missing, cuts those into chunks itself, asks which chunks are
//! missing, sends them, and publishes the paths. The server keeps nothing between two requests but
//! the chunks, so a push that was cut off anywhere is resumed by doing it again.
//!
//! - `missing`: [`MissingPaths`] to [`Missing`], JSON.
//! - `chunks/missing`: 32-byte BLAKE3 digests one behind the other; the answer has a bit for each,
//!   the first digest's being the least significant of the first byte; 1 says that it is missing.
//! - `chunks`: records of kind chunk as they lie in packs (docs/pack-format.md), one behind the
//!   other.
//! - `paths`: [`PublishPath`] messages, each after its length as a protobuf varint, and the whole
//!   compressed as one zstd stream; the answer is [`PathOutcome`] messages likewise, one for each and in the same order,
//!   not compressed.
//!
//! What is missing means missing to this token: chunks count as present when they were uploaded to
//! the cache, or to one that the token may pull from, or by the token's own subject.

use serde::{Deserialize, Serialize};

use crate::CacheInfo;

/// The longest body of `chunks/missing`, `chunks` or `paths` that a server takes, in bytes. Clients
/// send shorter ones, for the sake of proxies.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

/// Paths in one body of `paths`, at most.
pub const MAX_PATHS_AT_ONCE: usize = 4096;

/// The longest manifest that travels inside a [`PublishPath`]; longer ones are sent as chunks.
pub const MAX_INLINE_MANIFEST: usize = 256 * 1024;

/// Asks which store paths a cache does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPaths {
    /// Hash parts, 32 characters each.
    pub hashes: Vec<String>,
}

/// Which store paths a cache does not have, and what else a pusher has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Hash parts, in the order of the question.
    pub hashes: Vec<String>,
    /// The cache.
    pub cache: CacheInfo,
}

/// A path to publish. Its chunks have been sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishPath {
    /// Base name of the store path.
    #[prost(string, tag = "1")]
    pub store_path: String,
    /// SHA-256 of the NAR, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub nar_hash: Vec<u8>,
    /// Length of the NAR.
    #[prost(uint64, tag = "3")]
    pub nar_size: u64,
    /// Base names of the references.
    #[prost(string, repeated, tag = "4")]
    pub references: Vec<String>,
    /// Base name of the derivation; empty if unknown.
    #[prost(string, tag = "5")]
    pub deriver: String,
    /// Signatures, `name:base64`.
    #[prost(string, repeated, tag = "6")]
    pub signatures: Vec<String>,
    /// Content address; empty if there is none.
    #[prost(string, tag = "7")]
    pub ca: String,
    /// The [`Manifest`], encoded; empty when it was sent as chunks.
    #[prost(bytes = "vec", tag = "8")]
    pub manifest: Vec<u8>,
    /// Digests of the chunks that make up the manifest, 32 bytes each.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub manifest_chunks: Vec<Vec<u8>>,
}

/// What a path holds, down to the digests of its chunks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    /// The tree record.
    #[prost(bytes = "vec", tag = "1")]
    pub tree: Vec<u8>,
    /// The chunk list of every blob that has one, once, sorted by the blob's digest.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub lists: Vec<Vec<u8>>,
}

/// The shortest chunk list: two chunks, each named by its digest.
const MIN_LIST: usize = 64;

impl Manifest {
    /// Reads an encoded manifest from outside. Its lists are counted first, because two bytes of it
    /// can become many in memory.
    pub fn decode_bounded(bytes: &[u8]) -> Result<Self, String> {
        decode_bounded(bytes, 1)
    }
}

/// Decodes a message with `others` fields beside chunk lists, once these have been counted: there
/// may be as many as have room in its bytes.
pub(crate) fn decode_bounded<M: prost::Message + Default>(
    bytes: &[u8],
    others: usize,
) -> Result<M, String> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let bad = |error: prost::DecodeError| error.to_string();
    let (mut rest, mut fields) = (bytes, 0);
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(bad)?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default()).map_err(bad)?;
        fields += 1;
    }
    if fields > bytes.len() / MIN_LIST + others {
        return Err("it has more lists than it could have".to_owned());
    }
    M::decode(bytes).map_err(bad)
}

/// What became of a path.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PathOutcome {
    /// See [`Outcome`].
    #[prost(enumeration = "Outcome", tag = "1")]
    pub outcome: i32,
    /// Why it was refused.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Digests of the chunks that are missing, 32 bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub missing: Vec<Vec<u8>>,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Outcome {
    /// Never sent.
    Unknown = 0,
    /// It is in the cache, durably.
    Published = 1,
    /// Chunks have to be sent first.
    Missing = 2,
    /// It cannot be published as it is.
    Refused = 3,
    /// It refers to a path before it in the same request that was not published.
    Deferred = 4,
    /// The server failed on it; trying again later may help.
    Failed = 5,
}
