//! The sync protocol: how a lazy mount learns of paths and gets at their bytes.
//!
//! - `sync`: one [`SyncPaths`] message; the answer is [`SyncedPath`] messages, each after its length
//!   as a protobuf varint, and the whole compressed as one zstd stream, whose window is not larger
//!   than [`MAX_WINDOW_LOG`] says.
//! - `chunks/read`: 32-byte BLAKE3 digests one behind the other, at most [`MAX_CHUNKS_AT_ONCE`]; the
//!   answer is the records of these chunks as they lie in packs (docs/pack-format.md), one behind
//!   the other, in the order of the question. A chunk that the cache does not have is left out.
//! - `profiles`: [`PathProfile`] messages, each after its length as a protobuf varint, not
//!   compressed, at most [`MAX_PATHS_AT_ONCE`]; nothing is answered.
//!
//! All of it needs the right to pull from the cache; `profiles` needs a token that may pull from
//! it, also where everybody may: what anybody may read is not arranged by anybody.
//!
//! # Answers that end early
//!
//! An answer of `sync` may end before everything was said. Every path that was asked for, and with
//! `closure` every path that an answered one refers to, is answered, if only with an empty narinfo:
//! so what has no answer, and is not known, is asked for again. Likewise with `chunks/read`: what
//! stands in the question before the last record of the answer and was left out is not there; what
//! stands behind it is asked for again; and an answer without any record says that none is there.
//!
//! # Trust
//!
//! [`SyncedPath::narinfo`] is the narinfo as the cache serves it to everybody. Two fields that Nix
//! skips make a lazy reader need no NAR: `GranaryTree`, the BLAKE3 digest of the tree record in hex,
//! and one `GranarySig` for each of the cache's keys, an Ed25519 signature in Nix's notation over
//! [`root_fingerprint`].

/// Paths that one question may name, at most, and that one answer may hold.
pub const MAX_PATHS_AT_ONCE: usize = 4096;
/// Chunks in one question, at most.
pub const MAX_CHUNKS_AT_ONCE: usize = 4096;
/// The records of one answer of `chunks/read` are not longer than this, in bytes: what does not fit
/// is left out at the end, and to be asked for again. The first is always there.
pub const MAX_CHUNKS_ANSWER: usize = 32 * 1024 * 1024;
/// The longest question of `sync`, in bytes: room for some 100 000 known paths. Who knows more
/// leaves some out, and is told of them again.
pub const MAX_SYNC_QUESTION: usize = 2 * 1024 * 1024;
/// An answer of `sync` ends with the first path that makes it longer than this, in bytes before
/// compression; the others are to be asked for again.
pub const MAX_SYNC_ANSWER: usize = 32 * 1024 * 1024;
/// The longest message of `sync`, in bytes: what a tree and its lists may take when they are
/// pushed, a narinfo and a profile. Of a path that takes more, the tree is left out.
pub const MAX_SYNCED_PATH: usize = 132 * 1024 * 1024;
/// Base-2 logarithm of the largest zstd window of an answer of `sync`: 8 MiB.
pub const MAX_WINDOW_LOG: u32 = 23;
/// The longest profile, in bytes.
pub const MAX_PROFILE: usize = 64 * 1024;
/// The longest body of `profiles`, in bytes.
pub const MAX_PROFILES_BODY: usize = 4 * 1024 * 1024;
/// The narinfo field that names the tree.
pub const TREE_FIELD: &str = "GranaryTree";
/// The narinfo field that signs it.
pub const SIGNATURE_FIELD: &str = "GranarySig";

/// Asks for paths.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SyncPaths {
    /// Hash parts of store paths, 20 bytes each, one behind the other.
    #[prost(bytes = "vec", tag = "1")]
    pub hashes: Vec<u8>,
    /// Whether the paths that they refer to, directly or not, are wanted too. They come behind the
    /// path that refers to them, nearest first.
    #[prost(bool, tag = "2")]
    pub closure: bool,
    /// Whether trees, lists and profiles are wanted, or narinfos only.
    #[prost(bool, tag = "3")]
    pub trees: bool,
    /// Hash parts of paths that are known already, likewise: they, and what can only be reached
    /// through them, are left out of closures.
    #[prost(bytes = "vec", tag = "4")]
    pub known: Vec<u8>,
}

/// What a cache has of a path.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SyncedPath {
    /// Hash part of the store path, 20 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// The narinfo; empty when the cache does not have the path.
    #[prost(bytes = "vec", tag = "2")]
    pub narinfo: Vec<u8>,
    /// The tree record; empty when trees were not asked for, or when the cache cannot send it (it
    /// lost it, or it is too long), which is in the server's log.
    #[prost(bytes = "vec", tag = "3")]
    pub tree: Vec<u8>,
    /// The chunk list of every blob that has one, once, sorted by the blob's digest.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub lists: Vec<Vec<u8>>,
    /// Which chunks were touched first when the path was used elsewhere; empty if unknown. See
    /// [`PathProfile::chunks`].
    #[prost(bytes = "vec", tag = "5")]
    pub profile: Vec<u8>,
}

impl SyncedPath {
    /// Reads an encoded message from outside. Its lists are counted first, because two bytes of it
    /// can become many in memory.
    pub fn decode_bounded(bytes: &[u8]) -> Result<Self, String> {
        crate::push::decode_bounded(bytes, 4)
    }
}

/// Which chunks of a path were touched, in the order of the first touch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PathProfile {
    /// Hash part of the store path, 20 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// Numbers of chunks, protobuf varints one behind the other. A path's chunks are numbered from
    /// 0 in the order of its NAR, each at its first appearance. At most [`MAX_PROFILE`] bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub chunks: Vec<u8>,
}

/// What a `GranarySig` signs: one line, its parts between semicolons. `fingerprint` is what Nix
/// signs (`1;<store path>;sha256:<nix32>;<NAR size>;<references>`), `tree` the digest in hex.
pub fn root_fingerprint(fingerprint: &str, tree: &str) -> String {
    format!("granary-1;{tree};{fingerprint}")
}
