//! `granary cache …`

mod configure;
mod create;
mod destroy;
mod key;
mod show;

use clap::{Args, Subcommand};
use granary_client::config::CacheRef;
use granary_client::http::RemoteCache;

use crate::failure::Failure;
use crate::remote::RemoteArgs;

/// `granary cache …`
#[derive(Subcommand)]
pub enum Cache {
    /// Make a cache
    Create(create::Create),
    /// List the caches that you may see
    List(show::List),
    /// Show what a cache is
    Info(show::Info),
    /// Change a cache's settings
    Configure(configure::Configure),
    /// Destroy a cache; restore undoes it until garbage collection
    Destroy(destroy::Destroy),
    /// Bring a destroyed cache back
    Restore(destroy::Restore),
    /// The keys that a cache signs with
    #[command(subcommand)]
    Key(key::Key),
}

impl Cache {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::List(list) => list.run(),
            Self::Info(info) => info.run(),
            Self::Configure(configure) => configure.run(),
            Self::Destroy(destroy) => destroy.run(),
            Self::Restore(restore) => restore.run(),
            Self::Key(key) => key.run(),
        }
    }
}

/// A cache on the command line.
#[derive(Args)]
pub struct CacheArgs {
    /// The cache: CACHE, SERVER:CACHE or https://HOST/CACHE
    cache: CacheRef,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl CacheArgs {
    /// The cache.
    pub fn open(&self) -> Result<RemoteCache, Failure> {
        self.remote.cache(&self.cache)
    }

    /// The same, for questions that take the server long.
    pub fn open_to_weigh(&self) -> Result<RemoteCache, Failure> {
        self.remote.cache_to_weigh(&self.cache)
    }
}
