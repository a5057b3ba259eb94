//! `granary pin verify`

use clap::Args;
use granary_api::PinReport;
use granary_api::pin::{MissingPath, Need};
use indicatif::HumanBytes;

use crate::commands::cache::CacheArgs;
use crate::failure::{Context, Failure};
use crate::output::{note, print, print_json};
use crate::remote::block_on;

/// Paths of either kind that are printed. Who wants all of them asks for JSON.
const MAX_PRINTED: usize = 50;

/// Options of `granary pin verify`.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    cache: CacheArgs,
    /// The pin
    name: String,
    /// Take what is only referred to, or fetched, and is not in the cache, to be in an upstream cache
    #[arg(long)]
    allow_upstream: bool,
    /// Write what was found as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Runs the command; fails when something is missing or damaged.
    pub fn run(self) -> Result<(), Failure> {
        let (cache, name) = (self.cache.open()?, &self.name);
        let report = block_on(cache.verify_pin(name))?;
        let report = report.context(|| format!("cannot verify {name} of {}", cache.name()))?;
        if self.json {
            print_json(&report)?;
        } else {
            tell(&report)?;
        }
        let whole = match self.allow_upstream {
            true => report.whole_with_upstream,
            false => report.whole,
        };
        if whole {
            return Ok(());
        }
        if report.whole_with_upstream {
            note(
                "what an upstream cache has signed is not pushed: --allow-upstream leaves it out of \
                 account, and granary push --ignore-upstream pushes it",
            );
        }
        Err(Failure::new(format!("the pin {name} of {} is not whole", cache.name())))
    }
}

fn tell(report: &PinReport) -> Result<(), Failure> {
    for missing in report.missing.iter().take(MAX_PRINTED) {
        print(&format!("missing  {}  {}", missing.path, why(missing)))?;
    }
    for damaged in report.damaged.iter().take(MAX_PRINTED) {
        print(&format!("damaged  {}  {}", damaged.path, damaged.why))?;
    }
    let beyond = [report.missing.len(), report.damaged.len()];
    let beyond: usize = beyond.iter().map(|count| count.saturating_sub(MAX_PRINTED)).sum();
    let beyond = report.more + beyond as u64;
    if beyond > 0 {
        print(&format!("and {beyond} more: --json tells up to 10000 of either"))?;
    }
    let looked_at = format!(
        "{} in {}, {}",
        counted(report.paths, "path"),
        counted(report.revisions, "revision"),
        HumanBytes(report.bytes)
    );
    print(&match (report.whole, report.revisions) {
        (true, 0) => format!("{} keeps nothing any more", report.name),
        (true, _) => format!("{} is whole: {looked_at}", report.name),
        (false, _) => format!("{} is not whole: {looked_at} are there", report.name),
    })
}

fn why(missing: &MissingPath) -> String {
    let by = missing.needed_by.as_deref().unwrap_or("another path");
    match missing.need {
        Need::Pinned => "is pinned".to_owned(),
        Need::Reference => format!("{by} refers to it"),
        Need::Derivation => format!("{by} was built by it"),
        Need::Source => format!("{by} fetches it"),
        Need::UnknownDerivation => "is there, but not known is what it was built by".to_owned(),
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
