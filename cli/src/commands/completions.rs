//! `granary completions`

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Context, Failure};

/// Options of `granary completions`.
#[derive(Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Writes the completions of a command to stdout.
    pub fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "granary", &mut script);
        let written = io::stdout().lock().write_all(&script);
        written.context(|| "cannot write the completions".to_owned())
    }
}
