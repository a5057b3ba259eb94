//! `granary pin add`

use std::path::PathBuf;

use clap::Args;
use granary_api::{AddPin, PinInfo};
use granary_client::http::RemoteCache;
use granary_client::local::LocalStore;

use super::show::describe;
use crate::clock;
use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::print;
use crate::remote::block_on;

/// Options of `granary pin add`.
#[derive(Args)]
pub struct Add {
    #[command(flatten)]
    cache: CacheArgs,
    /// What the pin is called: letters, digits, `-`, `_`, `+` and `.`
    name: String,
    /// A store path that the cache has, or what leads to it such as ./result
    path: PathBuf,
    /// Keep the last N revisions from now on [default: as before, 1 at first]
    #[arg(long, value_name = "N")]
    revisions: Option<u32>,
    /// Keep this revision until then: 2026-12-31, 2026-12-31T12:00:00Z, or 90d from now [default:
    /// for ever]
    #[arg(long, value_name = "DATE", value_parser = clock::moment)]
    until: Option<u64>,
    /// Keep also what the path was built from, as far as the cache has it
    #[arg(long)]
    with_sources: bool,
    /// Nix store that the path is in, as for granary push
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
}

impl Add {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let path = LocalStore::resolve_in(self.store.as_deref(), &self.path)
            .context(|| format!("cannot pin {}", self.path.display()))?;
        let wanted = AddPin {
            path: path.to_string(),
            revisions: self.revisions,
            until: self.until,
            with_sources: self.with_sources,
        };
        let pin = block_on(add_pin(&cache, &self.name, &wanted))??;
        print(&describe(&pin))
    }
}

/// Pins a path.
pub async fn add_pin(cache: &RemoteCache, name: &str, pin: &AddPin) -> Result<PinInfo, Failure> {
    let added = cache.add_pin(name, pin).await;
    added.context(|| format!("cannot pin {} as {name} in {}", pin.path, cache.name()))
}
