//! `granary copy-store`

mod key;
mod place;

use castore::copy::{CopyProgress, CopyReport, copy_packs};
use clap::Args;
use indicatif::DecimalBytes;
use serde::Serialize;

use crate::failure::{Context, Failure};
use crate::logging;
use crate::output::{note, print, print_json};
use crate::work_bar::WorkBar;
use key::ServerKey;
use place::{Role, open_place};

/// Options of `granary copy-store`.
#[derive(Args)]
pub struct CopyStore {
    /// Store to copy: a data folder that no server is using, or s3://BUCKET[/PREFIX]
    from: String,
    /// Where to copy it: an empty or new data folder, an earlier copy, or s3://BUCKET[/PREFIX]
    to: String,
    /// Write what was copied as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    from: &'a str,
    to: &'a str,
    packs: u64,
    bytes: u64,
    present: u64,
    sealed: u64,
    torn_bytes: u64,
    server_key: ServerKey,
    problems: Vec<String>,
}

impl CopyStore {
    /// Copies what the target lacks; fails when something could not be copied.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let (from, to) = (&self.from, &self.to);
        let source = open_place(from, Role::Source)?;
        source.refuse_same(to)?;
        let target = open_place(to, Role::Target)?;
        // Before the packs: a target that opens must never be without the key to its secrets.
        let key = key::copy(source.dir.as_deref(), target.dir.as_deref())?;
        let mut bar = WorkBar::new("copying packs");
        let progress = &mut |news: CopyProgress| {
            bar.bytes(news.bytes, news.bytes_total, news.packs, news.packs_total);
        };
        let copied = copy_packs(&*source.packs, &*target.packs, from, progress);
        bar.finish();
        let copied = copied.context(|| format!("cannot copy {from} to {to}"))?;
        if self.json {
            print_json(&Report {
                from,
                to,
                packs: copied.packs,
                bytes: copied.bytes,
                present: copied.present,
                sealed: copied.sealed,
                torn_bytes: copied.torn,
                server_key: key,
                problems: copied.problems.iter().map(ToString::to_string).collect(),
            })?;
        } else {
            self.tell(&copied, key)?;
        }
        match copied.problems.len() {
            0 => Ok(()),
            n => Err(Failure::new(format!(
                "{to} is not complete, and no server opens it: {n} problems in {from} kept packs \
                 from being copied; put sound ones in their place, and run this again"
            ))),
        }
    }

    fn tell(&self, copied: &CopyReport, key: ServerKey) -> Result<(), Failure> {
        let (to, CopyReport { packs, present, .. }) = (&self.to, copied);
        for problem in &copied.problems {
            note(&problem.to_string());
        }
        let bytes = DecimalBytes(copied.bytes);
        print(&format!("copied {packs} packs of {bytes} to {to}; {present} were there already"))?;
        if copied.torn > 0 {
            let torn = copied.torn;
            note(&format!("{torn} bytes of a write that was never finished were left behind"));
        }
        if let Some(hint) = key.hint(&self.from) {
            note(&hint);
        }
        if copied.problems.is_empty() && copied.packs > 0 {
            note("the index there is made by the next start, or by granary fsck --rebuild");
        }
        Ok(())
    }
}
