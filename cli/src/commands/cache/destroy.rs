//! `granary cache destroy|restore`

use clap::Args;

use super::CacheArgs;
use super::show::describe;
use crate::failure::{Context, Failure};
use crate::output::{note, print};
use crate::prompt::ask;
use crate::remote::block_on;

/// Options of `granary cache destroy`.
#[derive(Args)]
pub struct Destroy {
    #[command(flatten)]
    cache: CacheArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Options of `granary cache restore`.
#[derive(Args)]
pub struct Restore {
    #[command(flatten)]
    cache: CacheArgs,
}

impl Destroy {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let name = cache.name();
        if !self.yes {
            let question = format!("Destroy {}? Type its name: ", cache.url());
            let answer = ask(&question).context(|| "cannot ask".to_owned())?;
            match answer.as_deref() {
                None => return Err(Failure::new("no terminal to ask at: say --yes")),
                Some(answer) if answer != name => {
                    return Err(Failure::new(format!("not {name}: nothing was destroyed")));
                }
                Some(_) => {}
            }
        }
        block_on(cache.destroy())?.context(|| format!("cannot destroy {name}"))?;
        note(&format!(
            "destroyed {name}; until garbage collection, granary cache restore {name} brings it back"
        ));
        Ok(())
    }
}

impl Restore {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let restored = block_on(cache.restore())?;
        let restored = restored.context(|| format!("cannot restore {}", cache.name()))?;
        print(&describe(&restored, &cache.url()))
    }
}
