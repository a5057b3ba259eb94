//! `granary man`

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};

use crate::failure::{Context, Failure};

/// Options of `granary man`.
#[derive(Args)]
pub struct Man {
    /// Folder to write to; made if it is missing
    dir: PathBuf,
}

impl Man {
    /// Writes a page for the command and one for each of those below it.
    pub fn run(self, command: Command) -> Result<(), Failure> {
        let context = || format!("cannot write man pages to {}", self.dir.display());
        fs::create_dir_all(&self.dir).context(context)?;
        clap_mangen::generate_to(command, &self.dir).context(context)
    }
}
