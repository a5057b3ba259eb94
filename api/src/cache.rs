//! Caches: what they are, and how they are changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Permission;

/// A cache as its users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Its name.
    pub name: String,
    /// Whether reading needs no token.
    pub public: bool,
    /// Where its paths live.
    pub store_dir: String,
    /// Priority among substituters; smaller is asked first.
    pub priority: u32,
    /// Whom clients may get a path from instead: what these sign is not pushed. A public key, or
    /// only its name, which then cannot be verified and leaves nothing out.
    pub upstream_keys: Vec<String>,
    /// Seconds for which a path is kept after its last use; `None` for the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<u64>,
    /// Seconds for which a path is kept after its upload; `None` for the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// What the paths may take together, in bytes of their NARs as zstd; `None` for the server's
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// The keys its signatures verify with, as `trusted-public-keys` wants them, newest first.
    pub public_keys: Vec<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// When it was destroyed, in seconds since 1970; it can be restored until its paths are
    /// collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<u64>,
    /// What the asker may do to it.
    pub permissions: Vec<Permission>,
}

/// The most paths that a page of a [`PathList`] holds.
pub const MAX_LISTED: usize = 1000;

/// A page of the store paths that a cache holds, in the order of their hash parts' bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathList {
    /// Base names.
    pub paths: Vec<String>,
    /// The hash part after which the next page begins; `None` on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The caches that the asker may see, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheList {
    /// The caches.
    pub caches: Vec<CacheInfo>,
}

/// How a new cache is to be. What is absent is the usual.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateCache {
    /// Whether reading needs no token.
    pub public: bool,
    /// Where its paths live; `/nix/store`.
    pub store_dir: Option<String>,
    /// Priority among substituters; 40.
    pub priority: Option<u32>,
    /// See [`CacheInfo::upstream_keys`]; the key of cache.nixos.org.
    pub upstream_keys: Option<Vec<String>>,
    /// See [`CacheInfo::retention`].
    pub retention: Option<u64>,
    /// See [`CacheInfo::max_age`].
    pub max_age: Option<u64>,
    /// See [`CacheInfo::max_size`].
    pub max_size: Option<u64>,
    /// A secret key in Nix's format, `name:base64`; made anew if absent.
    pub signing_key: Option<String>,
}

/// Changes to a cache. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigureCache {
    /// Whether reading needs no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// Where its paths live. Only a cache without paths can be moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_dir: Option<String>,
    /// Priority among substituters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// See [`CacheInfo::upstream_keys`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_keys: Option<Vec<String>>,
    /// How long paths are kept after their last use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// How long paths are kept after their upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Retention>,
    /// What the paths may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<MaxSize>,
}

/// How long paths are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// As the server's default says.
    Default,
    /// For so many seconds.
    Seconds(u64),
}

/// What the paths of a cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxSize {
    /// As the server's default says.
    Default,
    /// So many bytes of NARs as zstd.
    Bytes(u64),
}

impl Retention {
    /// The seconds; `None` for the server's default.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Default => None,
            Self::Seconds(seconds) => Some(seconds),
        }
    }
}

impl MaxSize {
    /// The bytes; `None` for the server's default.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Default => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// One of a cache's key pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// The public key, as `trusted-public-keys` wants it.
    pub public_key: String,
    /// Until when it signs, in seconds since 1970; `None` for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs_until: Option<u64>,
}

/// The key pairs of a cache, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The keys.
    pub keys: Vec<KeyInfo>,
}

/// A key pair to add.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddKey {
    /// A secret key in Nix's format; made anew if absent.
    pub signing_key: Option<String>,
    /// Rotates: the other keys sign for so many seconds more, and then no longer.
    pub retire_others_after: Option<u64>,
}

/// What is shown in the place of a secret key.
fn hidden(key: &Option<String>) -> Option<&'static str> {
    key.as_ref().map(|_| "…")
}

impl fmt::Debug for CreateCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateCache")
            .field("public", &self.public)
            .field("store_dir", &self.store_dir)
            .field("priority", &self.priority)
            .field("upstream_keys", &self.upstream_keys)
            .field("retention", &self.retention)
            .field("max_age", &self.max_age)
            .field("max_size", &self.max_size)
            .field("signing_key", &hidden(&self.signing_key))
            .finish()
    }
}

impl fmt::Debug for AddKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddKey")
            .field("signing_key", &hidden(&self.signing_key))
            .field("retire_others_after", &self.retire_others_after)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_keeps_secret_keys() {
        let signing_key = Some("k:SECRET".to_owned());
        let create = CreateCache { signing_key: signing_key.clone(), ..Default::default() };
        let add = AddKey { signing_key, ..Default::default() };
        let shown = format!("{create:?} {add:?}");
        assert!(shown.contains("signing_key: Some") && !shown.contains("SECRET"), "{shown}");
    }
}
