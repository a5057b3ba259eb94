//! `granary cache key …`

use std::path::PathBuf;

use clap::Subcommand;
use granary_api::{AddKey, KeyList};

use super::CacheArgs;
use super::create::read_key;
use crate::clock;
use crate::duration;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::remote::block_on;

/// `granary cache key …`
#[derive(Subcommand)]
pub enum Key {
    /// List the keys, newest first
    List {
        #[command(flatten)]
        cache: CacheArgs,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign with one more key
    Add {
        #[command(flatten)]
        cache: CacheArgs,
        /// The secret key in this file, as Nix writes it, instead of a new one
        #[arg(long, value_name = "FILE")]
        import: Option<PathBuf>,
    },
    /// Sign with a new key, and after a while no longer with the others
    Rotate {
        #[command(flatten)]
        cache: CacheArgs,
        /// How long the others go on signing
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration::parse)]
        keep_old: u64,
        /// The secret key in this file, as Nix writes it, instead of a new one
        #[arg(long, value_name = "FILE")]
        import: Option<PathBuf>,
    },
    /// Stop signing with a key
    Retire {
        #[command(flatten)]
        cache: CacheArgs,
        /// The key's name: what stands before its colon
        name: String,
        /// How long it goes on signing
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration::parse)]
        after: u64,
    },
    /// Write the public keys, a line each, as trusted-public-keys wants them
    Export {
        #[command(flatten)]
        cache: CacheArgs,
    },
}

impl Key {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { cache, json } => list(&cache, json),
            Self::Add { cache, import } => add(&cache, import, None),
            Self::Rotate { cache, keep_old, import } => add(&cache, import, Some(keep_old)),
            Self::Retire { cache, name, after } => {
                let cache = cache.open()?;
                let keys = block_on(cache.retire_key(&name, after))?;
                show(&keys.context(|| format!("cannot retire {name} of {}", cache.name()))?)
            }
            Self::Export { cache } => {
                let cache = cache.open()?;
                // Whoever may read a cache may know its public keys, if not the key pairs.
                let info = block_on(cache.info())?;
                let info = info.context(|| format!("cannot look up {}", cache.name()))?;
                print(&info.public_keys.join("\n"))
            }
        }
    }
}

fn list(cache: &CacheArgs, json: bool) -> Result<(), Failure> {
    let cache = cache.open()?;
    let keys = block_on(cache.keys())?;
    let keys = keys.context(|| format!("cannot list the keys of {}", cache.name()))?;
    if json { print_json(&keys) } else { show(&keys) }
}

fn add(
    cache: &CacheArgs,
    import: Option<PathBuf>,
    retire_others_after: Option<u64>,
) -> Result<(), Failure> {
    let cache = cache.open()?;
    let signing_key = import.as_deref().map(read_key).transpose()?;
    let keys = block_on(cache.add_key(&AddKey { signing_key, retire_others_after }))?;
    show(&keys.context(|| format!("cannot add a key to {}", cache.name()))?)
}

fn show(keys: &KeyList) -> Result<(), Failure> {
    let now = clock::now();
    for key in &keys.keys {
        match key.signs_until {
            Some(until) => {
                let until = clock::relative(until, now);
                print(&format!("{}  signs until {until}", key.public_key))?;
            }
            None => print(&key.public_key)?,
        }
    }
    Ok(())
}
