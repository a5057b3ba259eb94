//! Nix set up to get paths from a cache, and back: lines in a `nix.conf`, an entry in a `netrc`.
//!
//! Nothing else in the files changes, and what was there before stays when it is undone: what was
//! added is written down in `granary-uses.json` beside the `nix.conf` ([`Record`]), before it is.

mod files;
mod places;
mod record;
mod settings;
mod uses;

pub use places::{Places, Scope};
pub use record::Record;
pub use settings::{NixSettings, nix_version};
pub use uses::{Outcome, Use, apply, undo};

use std::io;
use std::path::PathBuf;

/// The login of our entries in a netrc. Granary does not look at it; it is how they are known.
pub const NETRC_LOGIN: &str = "granary";

/// Why Nix could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}{}", path.display(), hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is made by NixOS or home-manager.
    #[error(
        "{} is made by NixOS or home-manager: put what granary use --print shows into its \
         configuration (nix.settings)",
        path.display()
    )]
    Managed {
        /// The file.
        path: PathBuf,
    },
    /// A nix.conf cannot be edited.
    #[error("cannot edit {}", path.display())]
    NixConf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: nix_compat::nix_conf::Error,
    },
    /// A netrc cannot be edited.
    #[error("cannot edit {}", path.display())]
    Netrc {
        /// The file.
        path: PathBuf,
        /// Why.
        source: nix_compat::netrc::Error,
    },
    /// Our own notes cannot be read.
    #[error("cannot read {}: correct or remove it", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// No place for a user's files.
    #[error("neither HOME nor XDG_CONFIG_HOME is set")]
    NoHome,
    /// Nix does not run.
    #[error("cannot run nix: install it, or put it on PATH")]
    NoNix(#[source] io::Error),
    /// Nix does not tell its settings.
    #[error("nix does not tell its settings: {0}")]
    Settings(String),
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root, with sudo for one",
        _ => "",
    }
}
