//! `granary path delete`

use clap::Args;
use granary_api::paths::{DeletePaths, DeletedPaths};
use granary_client::http::RemoteCache;
use indicatif::HumanBytes;

use super::counted;
use super::named::hash_part;
use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::{note, print, print_json};
use crate::prompt::ask;
use crate::remote::block_on;

/// Paths that are shown before it is asked whether they are to go, at most.
const SHOWN: usize = 20;

/// Options of `granary path delete`.
#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    cache: CacheArgs,
    /// The paths: store paths, base names or hash parts, or symlinks to them such as ./result
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
    /// Also all that they refer to, directly or not, where nothing else in the cache refers to it
    #[arg(long)]
    closure: bool,
    /// Also all that refers to them, directly or not
    #[arg(long)]
    referrers: bool,
    /// Say what would go and what that would free, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Delete {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let hashes = self.paths.iter().map(|path| Ok(hash_part(path)?.to_string()));
        let mut wanted = DeletePaths {
            hashes: hashes.collect::<Result<_, Failure>>()?,
            referrers: self.referrers,
            closure: self.closure,
            dry_run: self.dry_run,
            sizes: false,
        };
        let cache = self.cache.open_to_weigh()?;
        if !self.dry_run && !self.yes {
            wanted.dry_run = true;
            let plan = send(&cache, &wanted)?;
            self.ask(&cache, &plan)?;
            wanted.dry_run = false;
        }
        let deleted = send(&cache, &wanted)?;
        if self.json {
            return print_json(&deleted);
        }
        for path in &deleted.paths {
            print(path)?;
        }
        deleted.kept.iter().for_each(|kept| note(&format!("kept {}: {}", kept.path, kept.why)));
        note(&summary(if self.dry_run { "would delete" } else { "deleted" }, &deleted));
        Ok(())
    }

    fn ask(&self, cache: &RemoteCache, plan: &DeletedPaths) -> Result<(), Failure> {
        plan.paths.iter().take(SHOWN).for_each(|path| note(path));
        if let Some(more @ 1..) = plan.paths.len().checked_sub(SHOWN) {
            note(&format!("and {more} more"));
        }
        note(&summary("would delete", plan));
        let question = format!("Delete them from {}? Type yes: ", cache.url());
        match ask(&question).context(|| "cannot ask".to_owned())?.as_deref() {
            None => Err(Failure::new("no terminal to ask at: say --yes")),
            Some("yes") => Ok(()),
            Some(_) => Err(Failure::new("not yes: nothing was deleted")),
        }
    }
}

fn send(cache: &RemoteCache, wanted: &DeletePaths) -> Result<DeletedPaths, Failure> {
    let deleted = block_on(cache.delete_paths(wanted))?;
    deleted.context(|| format!("cannot delete from {}", cache.name()))
}

/// `deleted 3 paths, 5 MiB of NARs; frees 2 MiB`
fn summary(verb: &str, deleted: &DeletedPaths) -> String {
    let count = counted(deleted.paths.len() as u64);
    let freed = match deleted.freed {
        Some(freed) => format!("; garbage collection frees {}", HumanBytes(freed)),
        None => String::new(),
    };
    format!("{verb} {count}, {} of NARs{freed}", HumanBytes(deleted.nar_size))
}
