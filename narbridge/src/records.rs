//! What the facts of a cache hold, as protobuf, and under which keys.
//!
//! ```text
//! caches                              the last number that was given, in 4 big-endian bytes
//! cache/<name>                        CacheRecord
//! path/<cache><hash part>             PathRecord
//! nar/<cache><sha256>                 NarRecord    by NAR hash, and by the hash of an uploaded file
//! file/<cache><path>                  FileRecord   logs, debuginfo, realisations
//! pin/<cache><name>                   PinRecord
//! revoked/id/<id of a token>          RevocationRecord
//! revoked/sub/<subject of tokens>     RevocationRecord
//! ```
//!
//! `<cache>` is the cache's number in 4 big-endian bytes. Field numbers are for ever.

use castore::Digest;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use prost::Message;

/// A tenant.
#[derive(Clone, PartialEq, Message)]
pub struct CacheRecord {
    /// Its number, never given again.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its key pairs, newest first.
    #[prost(message, repeated, tag = "2")]
    pub keys: Vec<KeyRecord>,
    /// Where its paths live; empty for `/nix/store`.
    #[prost(string, tag = "3")]
    pub store_dir: String,
    /// Priority among substituters; smaller is asked first.
    #[prost(uint32, tag = "4")]
    pub priority: u32,
    /// Whether reading needs a token.
    #[prost(bool, tag = "5")]
    pub private: bool,
    /// Seconds since 1970.
    #[prost(uint64, tag = "6")]
    pub created: u64,
    /// Public keys, or their names, of those whose paths are not pushed.
    #[prost(string, repeated, tag = "7")]
    pub upstream_keys: Vec<String>,
    /// Seconds for which a path is kept after its last use; absent for the server's default.
    #[prost(uint64, optional, tag = "8")]
    pub retention: Option<u64>,
    /// When it was destroyed, in seconds since 1970.
    #[prost(uint64, optional, tag = "9")]
    pub destroyed: Option<u64>,
    /// Seconds for which a path is kept after its upload; absent for the server's default.
    #[prost(uint64, optional, tag = "10")]
    pub max_age: Option<u64>,
    /// What the paths may take together, in bytes of their NARs as zstd; absent for the server's
    /// default.
    #[prost(uint64, optional, tag = "11")]
    pub max_size: Option<u64>,
    /// When it was restored, in seconds since 1970; 0 if it never was.
    #[prost(uint64, tag = "12")]
    pub restored: u64,
    /// Whether what is left of it is being removed.
    #[prost(bool, tag = "13")]
    pub buried: bool,
}

/// One of a cache's key pairs.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRecord {
    /// The public key, `name:base64`.
    #[prost(string, tag = "1")]
    pub public_key: String,
    /// The secret key in Nix's format, sealed with the server's key.
    #[prost(bytes = "vec", tag = "2")]
    pub sealed: Vec<u8>,
    /// Until when it signs, in seconds since 1970; absent for ever.
    #[prost(uint64, optional, tag = "3")]
    pub sign_until: Option<u64>,
}

impl KeyRecord {
    /// The key's name.
    pub(crate) fn name(&self) -> &str {
        self.public_key.split_once(':').map_or(&self.public_key, |(name, _)| name)
    }
}

/// What a cache says of a store path.
#[derive(Clone, PartialEq, Message)]
pub struct PathRecord {
    /// Name part of the store path.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The root node, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub root: Vec<u8>,
    /// Digest of the tree.
    #[prost(bytes = "vec", tag = "3")]
    pub tree: Vec<u8>,
    /// SHA-256 of the NAR.
    #[prost(bytes = "vec", tag = "4")]
    pub nar_hash: Vec<u8>,
    /// Length of the NAR.
    #[prost(uint64, tag = "5")]
    pub nar_size: u64,
    /// Base names of the paths it refers to, sorted.
    #[prost(string, repeated, tag = "6")]
    pub references: Vec<String>,
    /// Base name of the derivation; empty if unknown.
    #[prost(string, tag = "7")]
    pub deriver: String,
    /// The uploader's signatures.
    #[prost(string, repeated, tag = "8")]
    pub signatures: Vec<String>,
    /// Content address; empty if there is none.
    #[prost(string, tag = "9")]
    pub ca: String,
    /// Length of the NAR as zstd when it was uploaded.
    #[prost(uint64, tag = "10")]
    pub file_size: u64,
    /// Seconds since 1970.
    #[prost(uint64, tag = "11")]
    pub uploaded: u64,
    /// Subject of the token that pushed it; empty if unknown.
    #[prost(string, tag = "12")]
    pub uploader: String,
    /// Whether that subject may not read the cache, and so has claims to chunks of its own.
    #[prost(bool, tag = "13")]
    pub blind: bool,
}

impl PathRecord {
    /// Hash parts of the paths it refers to. A name that is none is nobody's.
    pub(crate) fn reference_hashes(&self) -> impl Iterator<Item = StorePathHash> {
        self.references.iter().filter_map(|name| hash_part(name))
    }

    /// Hash part of the derivation that it comes from, if that is known.
    pub(crate) fn deriver_hash(&self) -> Option<StorePathHash> {
        hash_part(&self.deriver)
    }
}

/// A NAR that was uploaded whole.
#[derive(Clone, PartialEq, Message)]
pub struct NarRecord {
    /// The root node, encoded.
    #[prost(bytes = "vec", tag = "1")]
    pub root: Vec<u8>,
    /// Digest of the tree.
    #[prost(bytes = "vec", tag = "2")]
    pub tree: Vec<u8>,
    /// SHA-256 of the NAR.
    #[prost(bytes = "vec", tag = "3")]
    pub nar_hash: Vec<u8>,
    /// Length of the NAR.
    #[prost(uint64, tag = "4")]
    pub nar_size: u64,
    /// How the uploaded file was compressed, by Nix's name.
    #[prost(string, tag = "5")]
    pub compression: String,
    /// Length of the uploaded file.
    #[prost(uint64, tag = "6")]
    pub file_size: u64,
    /// When it came, or was named by a path, in seconds since 1970.
    #[prost(uint64, tag = "7")]
    pub uploaded: u64,
    /// Whether it was written when a path was published: no narinfo is awaited any more.
    #[prost(bool, tag = "8")]
    pub published: bool,
}

/// A small file that a client keeps in its cache.
#[derive(Clone, PartialEq, Message)]
pub struct FileRecord {
    /// Digest of the tree whose root is the file.
    #[prost(bytes = "vec", tag = "1")]
    pub tree: Vec<u8>,
    /// Length in bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// `Content-Type` as uploaded.
    #[prost(string, tag = "3")]
    pub content_type: String,
    /// `Content-Encoding` as uploaded; empty for none.
    #[prost(string, tag = "4")]
    pub content_encoding: String,
    /// Seconds since 1970.
    #[prost(uint64, tag = "5")]
    pub uploaded: u64,
    /// What it is of no use without: the hash part of a store path, or the SHA-256 in the name of a NAR.
    /// Empty if its name tells, or nothing does.
    #[prost(bytes = "vec", tag = "6")]
    pub about: Vec<u8>,
}

/// A named root that garbage collection keeps, with everything it needs.
#[derive(Clone, PartialEq, Message)]
pub struct PinRecord {
    /// What the name stands for, and stood for before: newest first.
    #[prost(message, repeated, tag = "1")]
    pub revisions: Vec<PinRevisionRecord>,
    /// How many revisions are kept; 0 counts as 1.
    #[prost(uint32, tag = "2")]
    pub keep: u32,
}

/// One revision of a pin.
#[derive(Clone, PartialEq, Message)]
pub struct PinRevisionRecord {
    /// Base name of the store path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Seconds since 1970.
    #[prost(uint64, tag = "2")]
    pub created: u64,
    /// Subject of the token that pinned it; empty if unknown.
    #[prost(string, tag = "3")]
    pub created_by: String,
    /// Whether what it was built from is kept, too.
    #[prost(bool, tag = "4")]
    pub with_sources: bool,
    /// Until when it is kept, in seconds since 1970; absent for ever.
    #[prost(uint64, optional, tag = "5")]
    pub until: Option<u64>,
}

/// Tokens that are void.
#[derive(Clone, PartialEq, Message)]
pub struct RevocationRecord {
    /// When they were revoked, in seconds since 1970.
    #[prost(uint64, tag = "1")]
    pub revoked: u64,
}

/// A fact that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the store's record of {what} is damaged: {why}")]
pub struct RecordError {
    what: String,
    why: String,
}

impl RecordError {
    pub(crate) fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

pub(crate) fn decode<M: Message + Default>(what: &str, bytes: &[u8]) -> Result<M, RecordError> {
    M::decode(bytes).map_err(|error| RecordError::new(what, error))
}

pub(crate) fn digest(what: &str, bytes: &[u8]) -> Result<Digest, RecordError> {
    Digest::from_slice(bytes).ok_or_else(|| RecordError::new(what, "a digest has not 32 bytes"))
}

pub(crate) fn sha256(what: &str, bytes: &[u8]) -> Result<Sha256, RecordError> {
    let bytes: Result<[u8; 32], _> = bytes.try_into();
    bytes.map(Sha256::from).map_err(|_| RecordError::new(what, "a hash has not 32 bytes"))
}

/// Holds the last number that was given to a cache.
pub(crate) const LAST_NUMBER: &[u8] = b"caches";
/// What the keys of caches start with.
pub(crate) const CACHES: &[u8] = b"cache/";

pub(crate) fn cache_key(name: &str) -> Vec<u8> {
    [CACHES, name.as_bytes()].concat()
}

/// The hash part of a store path's base name; `None` where that is none.
pub(crate) fn hash_part(base_name: &str) -> Option<StorePathHash> {
    base_name.get(..StorePathHash::TEXT_LEN)?.parse().ok()
}

pub(crate) fn path_prefix(cache: u32) -> Vec<u8> {
    [&b"path/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn path_key(cache: u32, hash: StorePathHash) -> Vec<u8> {
    [&b"path/"[..], &cache.to_be_bytes(), hash.as_bytes()].concat()
}

pub(crate) fn nar_prefix(cache: u32) -> Vec<u8> {
    [&b"nar/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn file_prefix(cache: u32) -> Vec<u8> {
    [&b"file/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn pin_prefix(cache: u32) -> Vec<u8> {
    [&b"pin/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn pin_key(cache: u32, name: &str) -> Vec<u8> {
    [&b"pin/"[..], &cache.to_be_bytes(), name.as_bytes()].concat()
}

pub(crate) fn nar_key(cache: u32, hash: Sha256) -> Vec<u8> {
    [&b"nar/"[..], &cache.to_be_bytes(), hash.as_bytes()].concat()
}

/// There when that subject, who may not read the cache, has uploaded the NAR of that name.
pub(crate) fn nar_sender_key(cache: u32, hash: Sha256, subject: &str) -> Vec<u8> {
    [&nar_sender_prefix(cache, hash)[..], subject.as_bytes()].concat()
}

pub(crate) fn nar_sender_prefix(cache: u32, hash: Sha256) -> Vec<u8> {
    [&sent_prefix(cache)[..], hash.as_bytes()].concat()
}

pub(crate) fn sent_prefix(cache: u32) -> Vec<u8> {
    [&b"sent/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn file_key(cache: u32, path: &str) -> Vec<u8> {
    [&b"file/"[..], &cache.to_be_bytes(), path.as_bytes()].concat()
}

pub(crate) fn signature_prefix(cache: u32) -> Vec<u8> {
    [&b"sig/"[..], &cache.to_be_bytes()].concat()
}

pub(crate) fn signature_key(cache: u32, hash: StorePathHash) -> Vec<u8> {
    [&signature_prefix(cache)[..], hash.as_bytes()].concat()
}

/// In the index only: what the keys of a cache's profiles start with.
pub(crate) fn profile_prefix(cache: u32) -> Vec<u8> {
    [&b"profile/"[..], &cache.to_be_bytes()].concat()
}

/// In the index only: which chunks of a path were touched first.
pub(crate) fn profile_key(cache: u32, hash: StorePathHash) -> Vec<u8> {
    [&profile_prefix(cache)[..], hash.as_bytes()].concat()
}

/// In the index only: when garbage was collected last.
pub(crate) const COLLECTED: &[u8] = b"collected";

/// In the index only: before which time it is not known what was used.
pub(crate) const USED_SINCE: &[u8] = b"used-since";

/// In the index only: what the keys of a cache's uses start with.
pub(crate) fn used_prefix(cache: u32) -> Vec<u8> {
    [&b"used/"[..], &cache.to_be_bytes()].concat()
}

/// In the index only: when a path was last used.
pub(crate) fn used_key(cache: u32, hash: StorePathHash) -> Vec<u8> {
    [&used_prefix(cache)[..], hash.as_bytes()].concat()
}

/// In the index only: the NAR hash and length of a tree that has been verified.
pub(crate) fn verified_key(tree: &Digest) -> Vec<u8> {
    [VERIFIED, tree.as_bytes()].concat()
}

/// In the index only: what the keys of broken trees start with.
pub(crate) const BROKEN: &[u8] = b"broken/";

/// In the index only: there when a tree is known not to be all there.
pub(crate) fn broken_key(tree: &Digest) -> Vec<u8> {
    [BROKEN, tree.as_bytes()].concat()
}

/// What the keys of verified trees start with.
pub(crate) const VERIFIED: &[u8] = b"nar/";
