//! `granary pin list`

use std::fmt::Write;

use clap::Args;
use granary_api::PinInfo;

use crate::clock;
use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::remote::block_on;
use crate::time::utc;

/// Options of `granary pin list`.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    cache: CacheArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let list = block_on(cache.pins())?;
        let list = list.context(|| format!("cannot list the pins of {}", cache.name()))?;
        if self.json {
            return print_json(&list);
        }
        list.pins.iter().try_for_each(|pin| print(&describe(pin)))
    }
}

/// A pin: its name, and its revisions, newest first, a line each.
pub fn describe(pin: &PinInfo) -> String {
    let now = clock::now();
    let mut text = match pin.keep {
        1 => pin.name.clone(),
        keep => format!("{}, the last {keep} revisions", pin.name),
    };
    for revision in &pin.revisions {
        let _ = write!(text, "\n  {}  {}", revision.path, utc(revision.created));
        if let Some(by) = &revision.created_by {
            let _ = write!(text, " by {by}");
        }
        if revision.with_sources {
            text.push_str(", with sources");
        }
        match revision.until {
            Some(until) if until > now => {
                let _ = write!(text, ", kept until {}", clock::relative(until, now));
            }
            Some(until) => {
                let _ = write!(text, ", kept no longer since {}", utc(until));
            }
            None => {}
        }
    }
    text
}
