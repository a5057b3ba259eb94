//! Store paths: `/nix/store/<hash>-<name>`.
//!
//! The hash is 160 bits in Nix's base 32, 32 digits. The name is 1 to 211
//! characters of `0-9 a-z A-Z + - . _ ? =`; it is not `.` or `..`, nor does it
//! start with `.-` or `..-`.
//!
//! Nix has changed its mind about leading dots: 2.8 reads them all, 2.26 and
//! 2.34 have the rule above, and it is the one here.
//!
//! Source: the Nix manual, "Store Path Specification"; the edges were tried
//! with Nix 2.8.0, 2.26.3 and 2.34.8.

mod content_address;
mod store_dir;

pub use content_address::{
    CaPathError, ContentAddress, IngestionMethod, ParseError as CaParseError, build_ca_path,
};
pub use store_dir::StoreDir;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::nixbase32;

/// Longest name. With the hash, the dash and `.lock` or `.drv` variants it
/// stays under the 255 bytes a file name may have.
pub const MAX_NAME_LEN: usize = 211;

/// Why a text is not a store path, or not a store directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The hash part is not 32 digits of base 32 with a dash after them.
    #[error("{0:?} does not start with a store path's hash and a dash")]
    NoHash(String),
    /// The hash part is not base 32.
    #[error("the hash of a store path: {0}")]
    Hash(#[from] nixbase32::Error),
    /// The name is empty.
    #[error("the name of the store path is empty")]
    EmptyName,
    /// The name is over [`MAX_NAME_LEN`].
    #[error("the name of the store path is {0} bytes long, over the limit of {MAX_NAME_LEN}")]
    NameTooLong(usize),
    /// A character that names cannot have.
    #[error("the name {name:?} of a store path holds the character {character:?}")]
    NameCharacter {
        /// The name.
        name: String,
        /// The character.
        character: char,
    },
    /// The name is `.` or `..`, or starts with `.-` or `..-`.
    #[error("{0:?} is not allowed as the name of a store path")]
    DotName(String),
    /// The path is not directly below the store directory.
    #[error("{path:?} is not a path in the store {store_dir}")]
    NotInStore {
        /// The path.
        path: String,
        /// The store directory.
        store_dir: StoreDir,
    },
    /// Not an absolute path in its plainest spelling.
    #[error(
        "{0:?} cannot be a store directory: an absolute path is needed, \
             without empty components, dots or control characters"
    )]
    StoreDir(String),
}

/// The hash part of a store path. Ordered as its text is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorePathHash([u8; 20]);

impl StorePathHash {
    /// Digits of its text.
    pub const TEXT_LEN: usize = nixbase32::encoded_len(20);

    /// The 160 bits.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<[u8; 20]> for StorePathHash {
    fn from(bytes: [u8; 20]) -> Self {
        StorePathHash(bytes)
    }
}

impl FromStr for StorePathHash {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Ok(StorePathHash(nixbase32::decode_fixed(s)?))
    }
}

impl fmt::Display for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nixbase32::encode(&self.0))
    }
}

impl fmt::Debug for StorePathHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePathHash({self})")
    }
}

impl Ord for StorePathHash {
    /// 32 digits hold the 160 bits exactly and the digits ascend in ASCII, so
    /// the order of the texts is that of the numbers, last byte first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl PartialOrd for StorePathHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A store path, wherever its store is. Shown, and ordered, as its base name
/// `<hash>-<name>`.
// The derived order compares hash, then name: that of the base names, since
// all hashes are equally long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    hash: StorePathHash,
    name: String,
}

impl StorePath {
    /// The path of this hash and name.
    pub fn new(hash: StorePathHash, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        Ok(StorePath { hash, name: name.to_owned() })
    }

    /// The hash part.
    pub const fn hash(&self) -> StorePathHash {
        self.hash
    }

    /// The name part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is a derivation, by its name.
    pub fn is_derivation(&self) -> bool {
        self.name.ends_with(".drv")
    }

    /// Reads an absolute path directly below `store_dir`.
    pub fn from_absolute(path: &str, store_dir: &StoreDir) -> Result<Self, Error> {
        path.strip_prefix(store_dir.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .filter(|rest| !rest.contains('/'))
            .ok_or_else(|| Error::NotInStore {
                path: path.to_owned(),
                store_dir: store_dir.clone(),
            })?
            .parse()
    }

    /// The absolute path in `store_dir`.
    pub fn to_absolute(&self, store_dir: &StoreDir) -> String {
        format!("{store_dir}/{self}")
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::EmptyName);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(Error::NameTooLong(name.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    if let Some(character) = name.chars().find(|&c| !allowed(c)) {
        return Err(Error::NameCharacter { name: name.to_owned(), character });
    }
    let before_dash = name.split_once('-').map_or(name, |(start, _)| start);
    if before_dash == "." || before_dash == ".." {
        return Err(Error::DotName(name.to_owned()));
    }
    Ok(())
}

impl FromStr for StorePath {
    type Err = Error;

    /// Reads a base name, `<hash>-<name>`.
    fn from_str(s: &str) -> Result<Self, Error> {
        let (hash, name) = s
            .split_at_checked(StorePathHash::TEXT_LEN)
            .and_then(|(hash, rest)| Some((hash, rest.strip_prefix('-')?)))
            .ok_or_else(|| Error::NoHash(s.to_owned()))?;
        StorePath::new(hash.parse()?, name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn named(name: &str) -> Result<StorePath, Error> {
        format!("{HASH}-{name}").parse()
    }

    #[test]
    fn names_are_those_that_nix_2_34_takes() {
        let longest = "x".repeat(211);
        for name in [".foo", "...", ".a-", "..a", "a=?b+_-.", "-a", "7", &longest] {
            assert_eq!(named(name).unwrap().name(), name);
        }
        for name in [".", "..", ".-", ".-x", "..-x"] {
            assert_eq!(named(name), Err(Error::DotName(name.into())));
        }
        assert_eq!(named(""), Err(Error::EmptyName));
        assert_eq!(named(&"x".repeat(212)), Err(Error::NameTooLong(212)));
        for (name, character) in
            [("a~", '~'), ("a b", ' '), ("a/b", '/'), ("ä", 'ä'), ("a\n", '\n')]
        {
            assert_eq!(named(name), Err(Error::NameCharacter { name: name.into(), character }));
        }
    }

    #[test]
    fn what_has_no_hash_is_no_store_path() {
        for s in ["", "foo", HASH, &format!("{HASH}x-a"), &format!("{}ß-a", &HASH[1..])] {
            assert_eq!(s.parse::<StorePath>(), Err(Error::NoHash(s.into())));
        }
        assert!(matches!(
            "0123456789abcdefghijklmnpqrsvwxy-a".parse::<StorePath>(),
            Err(Error::Hash(nixbase32::Error::Digit { byte: b'e', at: 14 }))
        ));
    }

    #[test]
    fn absolute_paths_lie_directly_in_their_store() {
        let nix = StoreDir::default();
        let path = named("a.drv").unwrap();
        assert_eq!(path.to_absolute(&nix), format!("/nix/store/{HASH}-a.drv"));
        assert_eq!(StorePath::from_absolute(&path.to_absolute(&nix), &nix), Ok(path.clone()));
        assert!(path.is_derivation());
        for path in [
            format!("{HASH}-a"),
            format!("/nix/stor/{HASH}-a"),
            format!("/nix/store{HASH}-a"),
            format!("/nix/store/{HASH}-a/bin"),
            format!("/nix/store/{HASH}-a/"),
        ] {
            assert!(
                matches!(StorePath::from_absolute(&path, &nix), Err(Error::NotInStore { .. })),
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn store_paths_sort_as_their_texts(
            a: [u8; 20], b: [u8; 20], x in "[a-c+-]{1,4}", y in "[a-c+-]{1,4}"
        ) {
            let (p, q) = (StorePath::new(a.into(), &x).unwrap(), StorePath::new(b.into(), &y).unwrap());
            prop_assert_eq!(p.cmp(&q), p.to_string().cmp(&q.to_string()));
            prop_assert_eq!(p.to_string().parse(), Ok(p.clone()));
            let same = StorePath::new(a.into(), &y).unwrap();
            prop_assert_eq!(p.cmp(&same), p.to_string().cmp(&same.to_string()));
        }
    }
}
