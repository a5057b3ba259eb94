//! The one hash that matters most: of NARs and of the files that hold them.

use std::fmt;
use std::str::FromStr;

use sha2::Digest;

use super::{Encoding, Error, HashAlgo, NixHash};
use crate::nixbase32;

/// A SHA-256 digest. Shown as `sha256:<nix32>`; ordered by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads any spelling that names its algorithm, and says in which
    /// encoding it was.
    pub fn parse(s: &str) -> Result<(Self, Encoding), Error> {
        match NixHash::parse(s, None)? {
            (NixHash::Sha256(digest), encoding) => Ok((Sha256(digest), encoding)),
            (other, _) => Err(Error::WrongAlgo { found: other.algo(), expected: HashAlgo::Sha256 }),
        }
    }

    /// Reads 52 digits of Nix's base 32, with no algorithm before them.
    pub fn from_nix32(s: &str) -> Result<Self, Error> {
        Ok(Sha256(nixbase32::decode_fixed(s)?))
    }

    /// The digest in Nix's base 32, with no algorithm before it.
    pub fn to_nix32(&self) -> String {
        nixbase32::encode(&self.0)
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(digest: [u8; 32]) -> Self {
        Sha256(digest)
    }
}

impl From<Sha256> for [u8; 32] {
    fn from(hash: Sha256) -> Self {
        hash.0
    }
}

impl From<Sha256> for NixHash {
    fn from(hash: Sha256) -> Self {
        NixHash::Sha256(hash.0)
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Ok(Sha256::parse(s)?.0)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_nix32())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({})", self.to_nix32())
    }
}
