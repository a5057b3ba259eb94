//! `granary cache destroy|restore`

use clap::Args;
use indicatif::HumanBytes;

use super::CacheArgs;
use super::show::describe;
use crate::commands::path::counted;
use crate::failure::{Context, Failure};
use crate::output::{note, print, print_json};
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
    /// Say what would go, and destroy nothing
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: write JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
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
        if self.dry_run {
            return self.say();
        }
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

    fn say(&self) -> Result<(), Failure> {
        let cache = self.cache.open_to_weigh()?;
        let plan = block_on(cache.destroy_plan())?;
        let plan = plan.context(|| format!("cannot look into {}", cache.name()))?;
        if self.json {
            return print_json(&plan);
        }
        let pins = match plan.pins {
            None | Some(0) => String::new(),
            Some(1) => " and a pin".to_owned(),
            Some(pins) => format!(" and {pins} pins"),
        };
        let what = format!("{}{pins}, {} of NARs", counted(plan.paths), HumanBytes(plan.nar_size));
        let freed = HumanBytes(plan.freed);
        print(&format!("would destroy {}: {what}; would free {freed}", cache.name()))
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
