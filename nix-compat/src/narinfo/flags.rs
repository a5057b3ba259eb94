//! What was odd about a narinfo that was read nevertheless.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of oddities. Some Nix reads each of them, but would not write it.
/// None changes what the narinfo says.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// `NarHash` is not in Nix's base 32.
    pub const NAR_HASH_ENCODING: Flags = Flags(1);
    /// `FileHash` is not in Nix's base 32.
    pub const FILE_HASH_ENCODING: Flags = Flags(1 << 1);
    /// There is no `References`; there are none, then.
    pub const NO_REFERENCES: Flags = Flags(1 << 2);
    /// `References` is not in ascending order without repetitions.
    pub const REFERENCES_ORDER: Flags = Flags(1 << 3);
    /// There is no `Compression`, or an empty one: bzip2, then.
    pub const NO_COMPRESSION: Flags = Flags(1 << 4);
    /// `Deriver` is `unknown-deriver`: none, then.
    pub const UNKNOWN_DERIVER: Flags = Flags(1 << 5);
    /// `CA` is empty: none, then.
    pub const EMPTY_CA: Flags = Flags(1 << 6);
    /// A `Sig` is no signature. It is dropped, since Nix 2.34 fails on it.
    pub const BAD_SIGNATURE: Flags = Flags(1 << 7);
    /// There are fields that Nix does not know.
    pub const UNKNOWN_FIELDS: Flags = Flags(1 << 8);

    const NAMES: [(Flags, &'static str); 9] = [
        (Flags::NAR_HASH_ENCODING, "NAR_HASH_ENCODING"),
        (Flags::FILE_HASH_ENCODING, "FILE_HASH_ENCODING"),
        (Flags::NO_REFERENCES, "NO_REFERENCES"),
        (Flags::REFERENCES_ORDER, "REFERENCES_ORDER"),
        (Flags::NO_COMPRESSION, "NO_COMPRESSION"),
        (Flags::UNKNOWN_DERIVER, "UNKNOWN_DERIVER"),
        (Flags::EMPTY_CA, "EMPTY_CA"),
        (Flags::BAD_SIGNATURE, "BAD_SIGNATURE"),
        (Flags::UNKNOWN_FIELDS, "UNKNOWN_FIELDS"),
    ];

    /// Whether nothing was odd.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        *self = *self | other;
    }
}

/// The names of the flags, joined by ` | `.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, n)| *n).collect();
        write!(f, "Flags({})", names.join(" | "))
    }
}
