//! The paths of a cache: looked at, and deleted.

use serde::{Deserialize, Serialize};

/// The most paths that one [`DeletePaths`] names.
pub const MAX_DELETED: usize = 10_000;

/// A page of the store paths that a cache holds, in the order of their hash parts' bytes, with what is
/// said of each in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetailedPathList {
    /// The paths.
    pub paths: Vec<PathEntry>,
    /// The hash part after which the next page begins; `None` on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A path in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathEntry {
    /// Its base name.
    pub path: String,
    /// Length of the NAR.
    pub nar_size: u64,
    /// Length of the NAR as zstd when it was uploaded.
    pub file_size: u64,
    /// When that was, in seconds since 1970.
    pub uploaded: u64,
    /// When it was last used, in seconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<u64>,
}

/// What a cache says of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// The store path, with the store directory.
    pub store_path: String,
    /// SHA-256 of the NAR, as narinfos have it.
    pub nar_hash: String,
    /// Length of the NAR.
    pub nar_size: u64,
    /// Length of the NAR as zstd when it was uploaded.
    pub file_size: u64,
    /// Base names of the paths it refers to, sorted.
    pub references: Vec<String>,
    /// Base name of the derivation, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<String>,
    /// How many signatures came with it; the cache's own are not among them.
    pub signatures: usize,
    /// Content address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// When it was uploaded, in seconds since 1970.
    pub uploaded: u64,
    /// Subject of the token that pushed it, if it is known; told to those with a token for the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploader: Option<String>,
    /// When it was last used, in seconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<u64>,
    /// What it takes of the store, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<PathSizes>,
}

/// What a path takes of the store, in bytes, compressed as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSizes {
    /// What no other path of any cache needs.
    pub own: u64,
    /// What other paths need as well.
    pub shared: u64,
    /// The path and all that it refers to, directly or not, as far as the cache has it.
    pub closure: u64,
}

/// Paths to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeletePaths {
    /// Hash parts, 32 characters each, [`MAX_DELETED`] at most.
    pub hashes: Vec<String>,
    /// Whether all that refers to them, directly or not, goes as well. Without this, nothing is
    /// deleted where a path that stays refers to one of them.
    pub referrers: bool,
    /// Whether all that they refer to, directly or not, goes as well, where nothing that stays
    /// refers to it.
    pub closure: bool,
    /// Whether it is only to be said what would go.
    pub dry_run: bool,
    /// Whether it is to be said what will be free; a dry run says so anyway.
    pub sizes: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedPaths {
    /// Base names, those that refer to others before these.
    pub paths: Vec<String>,
    /// Length of their NARs.
    pub nar_size: u64,
    /// Bytes of the store that only they need, and that garbage collection frees; `None` if that was
    /// not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed: Option<u64>,
    /// What was to go and stays.
    pub kept: Vec<KeptPath>,
}

/// A path that was to go and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPath {
    /// Its base name.
    pub path: String,
    /// Why, for people.
    pub why: String,
}

/// What would go with a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyPlan {
    /// How many paths.
    pub paths: u64,
    /// How many pins, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<u64>,
    /// Length of the paths' NARs.
    pub nar_size: u64,
    /// Bytes of the store that no other cache needs, and that garbage collection frees.
    pub freed: u64,
}
