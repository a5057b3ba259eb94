//! `granary cache create`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use granary_api::CreateCache;
use nix_compat::signature::SigningKey;

use super::CacheArgs;
use super::show::describe;
use crate::duration;
use crate::failure::{Context, Failure};
use crate::output::print;
use crate::remote::block_on;
use crate::size::parse_size;

/// Options of `granary cache create`.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    cache: CacheArgs,
    /// Let everybody read it without a token
    #[arg(long)]
    public: bool,
    /// Priority among substituters, smaller is asked first [default: 40]
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// Where its paths live [default: /nix/store]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// Leave out of pushes what this public key has signed; may be repeated [default: the key of
    /// cache.nixos.org]
    #[arg(long, value_name = "KEY")]
    upstream_key: Vec<String>,
    /// Leave nothing out of pushes
    #[arg(long, conflicts_with = "upstream_key")]
    no_upstream: bool,
    /// Keep a path so long after its last use, such as 30d [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    retention: Option<u64>,
    /// Keep a path so long after its upload, such as 1y [default: as the server does]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    max_age: Option<u64>,
    /// Let the paths take so much, as their NARs as zstd: bytes, or with KiB, MiB, GiB, TiB [default: as the
    /// server does]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Sign with the secret key in this file, as Nix writes it [default: a new one]
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

impl Create {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let upstream_keys = if self.upstream_key.is_empty() && !self.no_upstream {
            None
        } else {
            Some(self.upstream_key)
        };
        let wanted = CreateCache {
            public: self.public,
            store_dir: self.store_dir,
            priority: self.priority,
            upstream_keys,
            retention: self.retention,
            max_age: self.max_age,
            max_size: self.max_size,
            signing_key: self.signing_key.as_deref().map(read_key).transpose()?,
        };
        let made = block_on(cache.create(&wanted))?;
        let made = made.context(|| format!("cannot create {}", cache.name()))?;
        print(&describe(&made, &cache.url()))
    }
}

/// Reads a secret key, and sees that it is one before it travels.
pub fn read_key(path: &Path) -> Result<String, Failure> {
    let context = || format!("cannot read a secret key from {}", path.display());
    let text = fs::read_to_string(path).context(context)?;
    let key: SigningKey = text.parse().context(context)?;
    Ok(key.to_secret_string())
}
