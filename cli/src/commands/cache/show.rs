//! `granary cache list|info`

use std::fmt::Write;

use clap::Args;
use granary_api::CacheInfo;

use super::CacheArgs;
use crate::commands::whoami::names;
use crate::duration;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::remote::{RemoteArgs, block_on};
use crate::size::write_size;
use crate::time::utc;

/// Options of `granary cache list`.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Options of `granary cache info`.
#[derive(Args)]
pub struct Info {
    #[command(flatten)]
    cache: CacheArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let server = self.remote.server()?;
        let list = block_on(server.caches())?.context(|| "cannot list the caches".to_owned())?;
        if self.json {
            return print_json(&list);
        }
        let width = list.caches.iter().map(|cache| cache.name.len()).max().unwrap_or(0);
        for cache in &list.caches {
            let kind = if cache.public { "public " } else { "private" };
            let gone = if cache.destroyed.is_some() { "  destroyed" } else { "" };
            let permissions = names(&cache.permissions);
            print(&format!("{:width$}  {kind}  {permissions}{gone}", cache.name))?;
        }
        Ok(())
    }
}

impl Info {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let info = block_on(cache.info())?;
        let info = info.context(|| format!("cannot look up {}", cache.name()))?;
        if self.json { print_json(&info) } else { print(&describe(&info, &cache.url())) }
    }
}

/// What a cache is, a line a fact.
pub fn describe(info: &CacheInfo, url: &str) -> String {
    let mut text =
        format!("cache       {}, {}", info.name, if info.public { "public" } else { "private" });
    let _ = write!(text, "\nurl         {url}");
    for key in &info.public_keys {
        let _ = write!(text, "\npublic key  {key}");
    }
    let _ = write!(text, "\nstore dir   {}\npriority    {}", info.store_dir, info.priority);
    for key in &info.upstream_keys {
        let _ = write!(text, "\nupstream    {key}");
    }
    let kept = match info.retention {
        Some(seconds) => format!("{} after the last use", duration::write(seconds)),
        None => "as the server does by default".to_owned(),
    };
    let _ = write!(text, "\nkept        {kept}");
    if let Some(seconds) = info.max_age {
        let _ = write!(text, "\nmax age     {} after the upload", duration::write(seconds));
    }
    if let Some(bytes) = info.max_size {
        let _ = write!(text, "\nmax size    {}", write_size(bytes));
    }
    let _ = write!(text, "\ncreated     {}", utc(info.created));
    if let Some(destroyed) = info.destroyed {
        let destroyed = utc(destroyed);
        let _ = write!(text, "\ndestroyed   {destroyed}; granary cache restore brings it back");
    }
    let _ = write!(text, "\nyou may     {}", names(&info.permissions));
    text
}
