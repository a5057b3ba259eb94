//! `granary pin …`

mod add;
mod show;
mod verify;

use clap::{Args, Subcommand};

use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::note;
use crate::remote::block_on;

pub use add::add_pin;

/// `granary pin …`
#[derive(Subcommand)]
pub enum Pin {
    /// Keep a path under a name; a name that is taken gets a new revision
    Add(add::Add),
    /// List the pins of a cache
    List(show::List),
    /// Take a pin away, with all its revisions
    Remove(Remove),
    /// Look whether what a pin keeps is all there
    Verify(verify::Verify),
}

impl Pin {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Remove(remove) => remove.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

/// Options of `granary pin remove`.
#[derive(Args)]
pub struct Remove {
    #[command(flatten)]
    cache: CacheArgs,
    /// The pin
    name: String,
}

impl Remove {
    fn run(self) -> Result<(), Failure> {
        let (cache, name) = (self.cache.open()?, &self.name);
        let removed = block_on(cache.remove_pin(name))?;
        removed.context(|| format!("cannot remove the pin {name} of {}", cache.name()))?;
        note(&format!("removed {name}: garbage collection may take what only it kept"));
        Ok(())
    }
}
