//! `granary token create|inspect|revoke`

mod create;
mod inspect;
mod revoke;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use granary_http::token::PURPOSE;
use narbridge::secrets::ServerKey;

use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};

/// `granary token …`
#[derive(Subcommand)]
pub enum Token {
    /// Make a token, from the server's key or another, also while the server runs
    Create(Box<create::Create>),
    /// Show what a token says, without believing it
    Inspect(inspect::Inspect),
    /// Make a server refuse a token, or all tokens of a subject that were made until now
    Revoke(revoke::Revoke),
}

impl Token {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    given.map_or_else(default_data_dir, Ok)
}

/// The secret of the server with that data directory. The key in it is all that is read.
fn secret(dir: &Path) -> Result<[u8; 32], Failure> {
    let key = ServerKey::load(&dir.join("server-key"));
    let key = key.context(|| {
        "cannot sign as the server does (name its folder with --data, or a key of your own with \
         --signing-key)"
            .to_owned()
    })?;
    Ok(key.derive(PURPOSE))
}
