//! Names of packs.

use std::fmt;
use std::str::FromStr;

/// A pack's name: 16 random bytes, written as 32 hexadecimal digits. Several writers never meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId([u8; Self::LEN]);

/// A text that is not the name of a pack.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of a pack: 32 hexadecimal digits are wanted")]
pub struct ParsePackIdError(String);

impl PackId {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// A new name.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; Self::LEN];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }

    /// A name from its bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

impl FromStr for PackId {
    type Err = ParsePackIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() == 2 * Self::LEN
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| valid)
            .map(|number| Self(number.to_be_bytes()))
            .ok_or_else(|| ParsePackIdError(text.to_owned()))
    }
}
