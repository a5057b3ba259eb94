//! `granary path info`

use std::fmt::Write;

use clap::Args;
use granary_api::PathInfo;
use indicatif::HumanBytes;

use super::named::hash_part;
use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::remote::block_on;
use crate::time::utc;

/// Options of `granary path info`.
#[derive(Args)]
pub struct Info {
    #[command(flatten)]
    cache: CacheArgs,
    /// The path: a store path, its base name or hash part, or a symlink to it such as ./result
    path: String,
    /// Also what it takes of the store; the server reads the whole store to say that
    #[arg(long)]
    sizes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let hash = hash_part(&self.path)?.to_string();
        let cache = if self.sizes { self.cache.open_to_weigh()? } else { self.cache.open()? };
        let info = block_on(cache.path_info(&hash, self.sizes))?;
        let info = info.context(|| format!("cannot look up {}", self.path))?;
        if self.json { print_json(&info) } else { print(&describe(&info)) }
    }
}

/// What is said of a path, a line a fact.
fn describe(info: &PathInfo) -> String {
    let mut text = format!("path        {}", info.store_path);
    let _ = write!(text, "\nnar         {}, {}", HumanBytes(info.nar_size), info.nar_hash);
    let _ = write!(text, "\ncompressed  {}", HumanBytes(info.file_size));
    let by = info.uploader.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let _ = write!(text, "\nuploaded    {}{by}", utc(info.uploaded));
    if let Some(last_used) = info.last_used {
        let _ = write!(text, "\nlast used   {}", utc(last_used));
    }
    if let Some(deriver) = &info.deriver {
        let _ = write!(text, "\nderiver     {deriver}");
    }
    if let Some(ca) = &info.ca {
        let _ = write!(text, "\naddress     {ca}");
    }
    let _ = write!(text, "\nsignatures  {}, and the cache's own", info.signatures);
    for reference in &info.references {
        let _ = write!(text, "\nrefers to   {reference}");
    }
    if let Some(sizes) = &info.sizes {
        let _ = write!(text, "\nown         {}, free without it", HumanBytes(sizes.own));
        let _ = write!(text, "\nshared      {}, with other paths", HumanBytes(sizes.shared));
        let _ = write!(text, "\nclosure     {}", HumanBytes(sizes.closure));
    }
    text
}
