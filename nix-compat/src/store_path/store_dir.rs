//! The directory that store paths are in.

use std::fmt;
use std::str::FromStr;

use super::Error;

/// A store directory: an absolute path without a slash at its end, empty
/// components, `.`, `..` or control characters. `/nix/store` nearly always.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(String);

impl StoreDir {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for StoreDir {
    fn default() -> Self {
        StoreDir("/nix/store".to_owned())
    }
}

impl FromStr for StoreDir {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = |part: &str| matches!(part, "" | "." | "..");
        match s.strip_prefix('/') {
            Some(rest) if !rest.split('/').any(bad) && !s.contains(char::is_control) => {
                Ok(StoreDir(s.to_owned()))
            }
            _ => Err(Error::StoreDir(s.to_owned())),
        }
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreDir({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_directory_is_a_plain_absolute_path() {
        for dir in ["/nix/store", "/gnu/store", "/s", "/home/me/.nix/store"] {
            assert_eq!(dir.parse::<StoreDir>().unwrap().as_str(), dir);
        }
        for dir in ["", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../s", "/a\nb"] {
            assert_eq!(dir.parse::<StoreDir>(), Err(Error::StoreDir(dir.into())));
        }
        assert_eq!("/nix/store".parse(), Ok(StoreDir::default()));
    }
}
