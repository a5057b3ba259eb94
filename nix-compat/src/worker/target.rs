//! What to make valid: a store path, or outputs of a derivation.
//!
//! On the wire outputs are the derivation's path, `!`, and `*` or the names of the outputs with
//! commas between them. Before 1.30 a derivation's bare path is all of its outputs.

use std::fmt;

use super::Version;
use crate::store_path::{self, StoreDir, StorePath};

/// What to make valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A path as it is.
    Path(StorePath),
    /// Outputs of a derivation.
    Outputs {
        /// The derivation.
        derivation: StorePath,
        /// The names of the outputs; none for all.
        names: Vec<String>,
    },
}

/// How to make something valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum BuildMode {
    /// Unless it is.
    Normal,
    /// And see that its contents are right.
    Repair,
    /// And build it again to compare.
    Check,
}

/// An argument that means nothing. The place in the stream is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// No store path, or the hash of none.
    #[error(transparent)]
    StorePath(#[from] store_path::Error),
    /// No target.
    #[error("{0:?} names no outputs of a derivation")]
    Target(String),
    /// No mode.
    #[error("there is no way to build numbered {0}")]
    Mode(u64),
}

impl BuildMode {
    pub(super) fn from_wire(number: u64) -> Result<Self, ArgumentError> {
        match number {
            0 => Ok(BuildMode::Normal),
            1 => Ok(BuildMode::Repair),
            2 => Ok(BuildMode::Check),
            other => Err(ArgumentError::Mode(other)),
        }
    }
}

impl Target {
    pub(super) fn from_wire(
        text: &str,
        version: Version,
        store_dir: &StoreDir,
    ) -> Result<Self, ArgumentError> {
        let Some((derivation, names)) = text.split_once('!') else {
            let path = StorePath::from_absolute(text, store_dir)?;
            if path.is_derivation() && !version.at_least(30) {
                return Ok(Target::Outputs { derivation: path, names: Vec::new() });
            }
            return Ok(Target::Path(path));
        };
        let derivation = StorePath::from_absolute(derivation, store_dir)?;
        let wrong = || ArgumentError::Target(text.to_owned());
        let names = match names {
            "*" => Vec::new(),
            names => names.split(',').map(str::to_owned).collect(),
        };
        // An output of an output would have another mark.
        if names.iter().any(|name| name.is_empty() || name.contains(['!', '*', '^'])) {
            return Err(wrong());
        }
        Ok(Target::Outputs { derivation, names })
    }

    /// As it is asked for.
    pub fn to_wire(&self, store_dir: &StoreDir) -> String {
        match self {
            Target::Path(path) => path.to_absolute(store_dir),
            Target::Outputs { derivation, names } if names.is_empty() => {
                format!("{}!*", derivation.to_absolute(store_dir))
            }
            Target::Outputs { derivation, names } => {
                format!("{}!{}", derivation.to_absolute(store_dir), names.join(","))
            }
        }
    }
}

impl fmt::Display for Target {
    /// As Nix's command line has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => path.fmt(f),
            Target::Outputs { derivation, names } if names.is_empty() => {
                write!(f, "{derivation}^*")
            }
            Target::Outputs { derivation, names } => write!(f, "{derivation}^{}", names.join(",")),
        }
    }
}
