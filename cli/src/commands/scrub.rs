//! `granary scrub`

use std::sync::Arc;

use clap::Args;
use indicatif::DecimalBytes;
use narbridge::scrub::{ScrubOptions, ScrubReport, ScrubStep};
use serde::Serialize;

use crate::failure::{Context, Failure};
use crate::logging;
use crate::output::{print, print_json};
use crate::size::parse_size;
use crate::store_place::StorePlace;
use crate::work_bar::WorkBar;

/// Problems that are printed. Who wants all of them asks for JSON.
const MAX_PRINTED: usize = 50;

/// Options of `granary scrub`.
#[derive(Args)]
pub struct Scrub {
    #[command(flatten)]
    place: StorePlace,
    /// Read at most so many bytes per second: bytes, or with KiB, MiB, GiB [default: as fast as it
    /// goes]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,
    /// Begin anew, instead of where a scrub was stopped
    #[arg(long)]
    restart: bool,
    /// Write what was found as JSON
    #[arg(long)]
    json: bool,
}

impl Scrub {
    /// Scrubs the store; fails when something in it is damaged.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let at = self.place.existing()?;
        let place = at.to_string();
        let house = Arc::new(at.open()?);
        house.keep_fresh().context(|| "cannot start threads".to_owned())?;
        let (mut packs, mut paths) =
            (WorkBar::new("reading packs"), WorkBar::new("looking at paths"));
        let options = ScrubOptions { rate: self.rate, resume: !self.restart, ..Default::default() };
        let found = house.scrub(options, &mut |step| match step {
            ScrubStep::Packs(news) => {
                packs.bytes(news.bytes, news.bytes_total, news.packs, news.packs_total);
            }
            ScrubStep::Paths(done) => paths.count(done),
        });
        packs.finish();
        paths.finish();
        let found = found.context(|| format!("cannot scrub {place}"))?;
        let found = found.ok_or_else(|| {
            Failure::new(format!("{place}: a server, or another granary scrub, scrubs it already"))
        })?;
        let report = Report::new(&place, found);
        if self.json {
            print_json(&report)?;
        } else {
            for line in report.lines().take(MAX_PRINTED) {
                print(&line)?;
            }
            let beyond = report.lines().count().saturating_sub(MAX_PRINTED);
            if beyond > 0 {
                print(&format!("and {beyond} more: granary scrub --json tells all"))?;
            }
            print(&report.summary())?;
        }
        match report.problems.len() + report.broken_paths.len() {
            0 => Ok(()),
            _ => Err(Failure::new(format!(
                "{place}: push the broken paths again, or put the damaged packs back from a backup"
            ))),
        }
    }
}

#[derive(Serialize)]
struct Report {
    store: String,
    packs: u64,
    bytes: u64,
    records: u64,
    damaged_records: u64,
    restored_records: u64,
    lost_packs: Vec<String>,
    problems: Vec<String>,
    broken_paths: Vec<BrokenPath>,
    mended_trees: u64,
}

#[derive(Serialize)]
struct BrokenPath {
    cache: String,
    path: String,
}

impl Report {
    fn new(store: &str, found: ScrubReport) -> Self {
        let ScrubReport { packs, broken } = found;
        let broken = broken.unwrap_or_default();
        let paths = broken.paths.into_iter();
        Self {
            store: store.to_owned(),
            packs: packs.packs,
            bytes: packs.bytes,
            records: packs.records,
            damaged_records: packs.damaged,
            restored_records: packs.restored,
            lost_packs: packs.lost.iter().map(ToString::to_string).collect(),
            problems: packs.problems.iter().map(ToString::to_string).collect(),
            broken_paths: paths.map(|(cache, path)| BrokenPath { cache, path }).collect(),
            mended_trees: broken.mended,
        }
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let paths = self.broken_paths.iter();
        let paths =
            paths.map(|BrokenPath { cache, path }| format!("cache {cache}: {path} is broken"));
        self.problems.iter().cloned().chain(paths)
    }

    fn summary(&self) -> String {
        let Self { packs, records, damaged_records, .. } = self;
        let bytes = DecimalBytes(self.bytes);
        let mut text = format!(
            "read {packs} packs of {bytes} ({records} records): {damaged_records} records more are \
             damaged, {} paths are broken",
            self.broken_paths.len()
        );
        if self.restored_records + self.mended_trees > 0 {
            let (restored, mended) = (self.restored_records, self.mended_trees);
            text += &format!("; {restored} records and {mended} trees are whole again");
        }
        text
    }
}
