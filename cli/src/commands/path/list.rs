//! `granary path list`

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Args;
use granary_api::paths::PathEntry;
use indicatif::HumanBytes;

use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::print_json;
use crate::remote::block_on;
use crate::time::utc;

/// Options of `granary path list`.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    cache: CacheArgs,
    /// Also the length of each NAR, plain and compressed, and when it was uploaded; in a pipe, bytes
    /// and seconds since 1970 between tabs
    #[arg(long, short)]
    long: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let failed = || format!("cannot list the paths of {}", cache.name());
        let context = || "cannot write to stdout".to_owned();
        let info = block_on(cache.info())?.context(failed)?;
        let terminal = io::stdout().is_terminal();
        let mut out = BufWriter::new(io::stdout().lock());
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = block_on(cache.detailed_paths(after.as_deref()))?.context(failed)?;
            if self.json {
                all.extend(page.paths);
            } else {
                for path in &page.paths {
                    let line = self.line(path, &info.store_dir, terminal);
                    writeln!(out, "{line}").context(context)?;
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        out.flush().context(context)?;
        drop(out);
        if self.json { print_json(&all) } else { Ok(()) }
    }

    fn line(&self, entry: &PathEntry, store_dir: &str, terminal: bool) -> String {
        let PathEntry { path, nar_size, file_size, uploaded, .. } = entry;
        let path = format!("{store_dir}/{path}");
        if !self.long {
            return path;
        }
        if !terminal {
            return format!("{path}\t{nar_size}\t{file_size}\t{uploaded}");
        }
        // The sizes first: they can be aligned before all paths are known.
        let size = |bytes| HumanBytes(bytes).to_string();
        format!("{:>11} {:>11}  {}  {path}", size(*nar_size), size(*file_size), utc(*uploaded))
    }
}
