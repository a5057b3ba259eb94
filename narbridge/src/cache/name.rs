//! Names of caches.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// A cache's name: 1 to 50 letters, digits, `-`, `_` and `+`, beginning with a letter or digit; the
/// rule of Attic, so that its names can be taken over. Part of URLs and of key names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheName(String);

/// A text that cannot name a cache.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` cannot name a cache: 1 to 50 letters, digits, `-`, `_` and `+` are allowed, the first \
     being a letter or digit"
)]
pub struct InvalidCacheName(String);

impl CacheName {
    const MAX: usize = 50;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CacheName {
    type Err = InvalidCacheName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+".contains(&b));
        if first && rest && text.len() <= Self::MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidCacheName(text.to_owned()))
        }
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for CacheName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
