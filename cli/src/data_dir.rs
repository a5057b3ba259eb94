//! The data directory, by the XDG rules.

use std::env;
use std::path::PathBuf;

use crate::failure::Failure;

/// Where a server keeps everything unless it is told otherwise:
/// `$XDG_STATE_HOME/granary`, or `~/.local/state/granary`.
pub fn default_data_dir() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("granary"))
        .ok_or_else(|| Failure::new("neither HOME nor XDG_STATE_HOME is set: name a --data folder"))
}
