//! Which servers there are, and which one is meant.
//!
//! `$XDG_CONFIG_HOME/granary/config.toml` (`~/.config`), which `granary login` writes, mode 0600:
//!
//! ```toml
//! default = "team"
//!
//! [servers.team]
//! url = "https://cache.example.org"
//! token = "…"
//! ```
//!
//! The environment alone is enough: `GRANARY_SERVER` is the name or the address of the server to
//! use, `GRANARY_TOKEN` or the file `GRANARY_TOKEN_FILE` its token. See [`Settings`] for what comes
//! first.

mod environment;
mod file;
mod reference;
mod settings;

pub use environment::Environment;
pub use file::{Config, ServerEntry, config_path, update};
pub use reference::{CacheRef, ServerRef};
pub use settings::{Settings, Target};

use std::io;
use std::path::PathBuf;

use crate::http::{InvalidToken, InvalidUrl};

/// Why it is not known whom to talk to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that is not understood. The text is not in here: it may be a token.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// An address is none.
    #[error("{place}")]
    Url {
        /// Where it stands.
        place: String,
        /// What is wrong.
        source: InvalidUrl,
    },
    /// A token is none.
    #[error("{place}")]
    Token {
        /// Where it stands.
        place: String,
        /// What is wrong.
        source: InvalidToken,
    },
    /// No place for configuration.
    #[error("neither HOME nor XDG_CONFIG_HOME is set: use GRANARY_SERVER and GRANARY_TOKEN")]
    NoHome,
    /// No server at all.
    #[error("no server is known: run granary login NAME URL, or set GRANARY_SERVER")]
    NoServer,
    /// Several servers, and none is the default.
    #[error("which server: {names}? Name one with --server, or run granary login --set-default")]
    Ambiguous {
        /// The names.
        names: String,
    },
    /// A name that nobody logged in under.
    #[error("no server is called `{name}`: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// What there is instead.
        known: String,
    },
    /// Not the name of a server.
    #[error("`{0}` cannot name a server: letters, digits, `.`, `_` and `-` are allowed")]
    ServerName(String),
    /// Not a cache.
    #[error("`{0}` is no cache: write CACHE, SERVER:CACHE or https://HOST/CACHE")]
    Reference(String),
    /// `--server` and another server.
    #[error("`{0}` names a server already: leave --server out")]
    Twice(String),
}
