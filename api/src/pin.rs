//! Pins: named roots that garbage collection keeps, with everything they need.

use serde::{Deserialize, Serialize};

/// A pin as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinInfo {
    /// Its name.
    pub name: String,
    /// How many revisions are kept.
    pub keep: u32,
    /// Newest first.
    pub revisions: Vec<PinRevision>,
}

/// One revision of a pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRevision {
    /// Base name of the store path.
    pub path: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Subject of the token that pinned it. Only those with a permission on the cache are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Whether what it was built from is kept, too.
    pub with_sources: bool,
    /// Until when it is kept, in seconds since 1970; `None` for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// The pins of a cache, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinList {
    /// The pins.
    pub pins: Vec<PinInfo>,
}

/// What is to be pinned, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddPin {
    /// The store path, or its base name. The cache has to have it.
    pub path: String,
    /// How many revisions are kept from now on; as many as before, or one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revisions: Option<u32>,
    /// Until when this one is kept, in seconds since 1970; for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Whether to keep what it was built from, too.
    pub with_sources: bool,
}

/// Whether what a pin keeps is all there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// The pin's name.
    pub name: String,
    /// Revisions that keep something.
    pub revisions: u64,
    /// Paths of the cache that were looked at.
    pub paths: u64,
    /// Bytes of their NARs.
    pub bytes: u64,
    /// Whether everything is in this cache.
    pub whole: bool,
    /// Whether everything is there if upstream caches have what is only referred to, or fetched.
    pub whole_with_upstream: bool,
    /// Paths that the cache does not have.
    pub missing: Vec<MissingPath>,
    /// Paths that it has and cannot serve.
    pub damaged: Vec<DamagedPath>,
    /// How many more are missing or damaged than are named here.
    pub more: u64,
}

/// A path that a cache does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPath {
    /// Its base name.
    pub path: String,
    /// Why it has to be there.
    pub need: Need,
    /// The path that needs it, if another does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_by: Option<String>,
}

/// Why a path has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// It is pinned.
    Pinned,
    /// A path refers to it.
    Reference,
    /// It is the derivation of a path that is pinned with sources.
    Derivation,
    /// A derivation fetches it.
    Source,
    /// The path itself is there, but it is not known what derivation made it.
    UnknownDerivation,
}

/// A path that a cache has and cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPath {
    /// Its base name.
    pub path: String,
    /// What is wrong.
    pub why: String,
}
