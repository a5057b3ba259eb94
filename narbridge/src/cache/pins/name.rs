//! Names of pins.

use std::fmt;
use std::str::FromStr;

/// A pin's name: 1 to 100 letters, digits, `-`, `_`, `+` and `.`, beginning with a letter or digit.
/// Part of URLs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinName(String);

/// A text that cannot name a pin.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` cannot name a pin: 1 to 100 letters, digits, `-`, `_`, `+` and `.` are allowed, the first \
     being a letter or digit"
)]
pub struct InvalidPinName(String);

impl PinName {
    const MAX: usize = 100;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PinName {
    type Err = InvalidPinName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b));
        if first && rest && text.len() <= Self::MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPinName(text.to_owned()))
        }
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_releases_and_branches_without_slashes() {
        let long = "x".repeat(100);
        for name in ["a", "v1.2.3", "main", "24.05_x+y", &long] {
            assert_eq!(name.parse::<PinName>().unwrap().as_str(), name);
        }
        let longer = "x".repeat(101);
        for name in ["", ".", "..", "-a", "a/b", "a b", "ä", &longer] {
            assert!(name.parse::<PinName>().is_err(), "{name}");
        }
    }
}
