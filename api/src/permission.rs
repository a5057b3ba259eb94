//! What a token may permit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a token permits on a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Read.
    Pull,
    /// Upload and publish paths.
    Push,
    /// Delete paths.
    Delete,
    /// Pin paths.
    Pin,
    /// Make the cache.
    Create,
    /// Change its settings and keys.
    Configure,
    /// Change how long paths are kept.
    ConfigureRetention,
    /// Remove the cache.
    Destroy,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::Pin,
        Self::Create,
        Self::Configure,
        Self::ConfigureRetention,
        Self::Destroy,
    ];

    /// The name that tokens and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Pin => "pin",
            Self::Create => "create",
            Self::Configure => "configure",
            Self::ConfigureRetention => "configure-retention",
            Self::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|permission| permission.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is not a permission: there are {names}")
        })
    }
}
