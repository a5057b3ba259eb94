//! What a NAR may hold: the rules for names, targets and depth.

use std::fmt;

/// Bounds on the parts of a NAR that a reader has to hold in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many directories may be open at once.
    pub max_depth: usize,
    /// Longest name of an entry, in bytes.
    pub max_name_len: usize,
    /// Longest symlink target, in bytes.
    pub max_target_len: usize,
}

impl Default for Limits {
    /// What Linux can hold: names of 255 bytes (`NAME_MAX`), targets of 4095
    /// (`PATH_MAX` less its NUL).
    ///
    /// Directories nest at most 256 deep. `PATH_MAX` alone would let one-letter
    /// names go some 2000 deep, but real trees stay under 50, and whoever
    /// holds such a tree recurses over it: 256 levels fit the smallest stack
    /// a thread is given.
    fn default() -> Self {
        Limits { max_depth: 256, max_name_len: 255, max_target_len: 4095 }
    }
}

/// How a name, a symlink target or the shape of a tree breaks NAR's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A name of no bytes.
    #[error("the name of an entry is empty")]
    EmptyName,
    /// `.` or `..`.
    #[error("the name of an entry is {}", Quoted(.0))]
    DotName(Vec<u8>),
    /// A slash or a NUL in a name.
    #[error("the name {} holds a {}", Quoted(.name), if *.byte == 0 { "NUL" } else { "slash" })]
    NameByte {
        /// The name.
        name: Vec<u8>,
        /// The byte it may not hold.
        byte: u8,
    },
    /// A name over [`Limits::max_name_len`].
    #[error("the name of an entry is {len} bytes long, over the limit of {limit}")]
    NameTooLong {
        /// Its length in bytes.
        len: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A name that does not sort after the one before it.
    #[error("the entry {} is out of order: it comes after {}", Quoted(.name), Quoted(.previous))]
    Unsorted {
        /// The name.
        name: Vec<u8>,
        /// The name of the entry before it.
        previous: Vec<u8>,
    },
    /// Two entries of one name.
    #[error("the entry {} is there twice", Quoted(.0))]
    Duplicate(Vec<u8>),
    /// A symlink target of no bytes.
    #[error("the symlink's target is empty")]
    EmptyTarget,
    /// A NUL in a symlink target.
    #[error("the symlink's target holds a NUL")]
    TargetNul,
    /// A target over [`Limits::max_target_len`].
    #[error("the symlink's target is {len} bytes long, over the limit of {limit}")]
    TargetTooLong {
        /// Its length in bytes.
        len: u64,
        /// The limit in force.
        limit: usize,
    },
    /// More directories open than [`Limits::max_depth`].
    #[error("directories nest more than {limit} deep")]
    TooDeep {
        /// The limit in force.
        limit: usize,
    },
}

impl Limits {
    pub(super) fn check_name_len(&self, len: u64) -> Result<(), Violation> {
        if len == 0 {
            return Err(Violation::EmptyName);
        }
        if len > self.max_name_len as u64 {
            return Err(Violation::NameTooLong { len, limit: self.max_name_len });
        }
        Ok(())
    }

    pub(super) fn check_target_len(&self, len: u64) -> Result<(), Violation> {
        if len == 0 {
            return Err(Violation::EmptyTarget);
        }
        if len > self.max_target_len as u64 {
            return Err(Violation::TargetTooLong { len, limit: self.max_target_len });
        }
        Ok(())
    }
}

/// Checks the bytes of a name; its length is checked by [`Limits`].
pub(super) fn check_name(name: &[u8]) -> Result<(), Violation> {
    if name == b"." || name == b".." {
        return Err(Violation::DotName(name.to_vec()));
    }
    match name.iter().find(|&&b| b == b'/' || b == 0) {
        Some(&byte) => Err(Violation::NameByte { name: name.to_vec(), byte }),
        None => Ok(()),
    }
}

/// Checks the bytes of a target; its length is checked by [`Limits`].
pub(super) fn check_target(target: &[u8]) -> Result<(), Violation> {
    if target.contains(&0) { Err(Violation::TargetNul) } else { Ok(()) }
}

/// Bytes of a path as an error shows them: quoted, with all that is not
/// printable ASCII escaped.
pub(super) struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
