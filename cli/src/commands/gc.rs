//! `granary gc`

use std::time::{Duration, Instant};

use clap::Args;
use granary_api::duration;
use granary_api::gc::{Collect, Collected, GcReport};
use indicatif::DecimalBytes;
use narbridge::gc::{GcOptions, GcStep};

use crate::failure::{Context, Failure};
use crate::keep::Keep;
use crate::logging;
use crate::output::{print, print_json};
use crate::remote::{RemoteArgs, block_on};
use crate::size::parse_size;
use crate::store_place::StorePlace;
use crate::work_bar::WorkBar;

/// Options of `granary gc`.
#[derive(Args)]
pub struct Gc {
    #[command(flatten)]
    place: StorePlace,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    manner: Manner,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Write what was done as JSON
    #[arg(long)]
    json: bool,
}

/// How to collect.
#[derive(Args, Clone, Copy)]
struct Manner {
    /// How long what nothing needs any more stays, so that who pushes it again finds it there; and how
    /// long destroyed caches can be restored [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    grace: Option<u64>,
    /// How much may lie around unneeded, in percent of what is kept, before packs are written anew
    /// [default: 5]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    max_unneeded: Option<f64>,
    /// Read and write no faster than so much per second
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    rate: Option<u64>,
}

/// A share, from a text in percent.
fn parse_percent(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.trim_end_matches('%').parse().ok();
    let share = percent.map(|percent| percent / 100.0);
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "0 to 100 is wanted".to_owned())
}

impl Gc {
    /// Collects garbage once: by the server that is named, or else in the store itself.
    pub fn run(self) -> Result<(), Failure> {
        let report = match self.remote.chosen() {
            Some(_) => self.ask()?,
            None => self.collect()?,
        };
        if self.json { print_json(&report) } else { print(&described(&report)) }
    }

    fn ask(&self) -> Result<GcReport, Failure> {
        let target = self.remote.target()?;
        let context = || format!("cannot collect garbage at {}", target.url);
        let Manner { grace, max_unneeded, rate } = self.manner;
        let wanted = Collect { grace, max_unneeded, rate, dry_run: self.dry_run };
        match block_on(self.remote.server()?.collect(&wanted))?.context(context)? {
            Collected::Done(report) => Ok(*report),
            Collected::Busy => Err(Failure::new(format!("{}: {BUSY}", context()))),
            Collected::Failed(why) => Err(Failure::new(format!("{}: {why}", context()))),
        }
    }

    fn collect(&self) -> Result<GcReport, Failure> {
        logging::start();
        let place = self.place.existing()?;
        let house = place.open()?;
        let context = || format!("cannot collect garbage in {place}");
        let usual = GcOptions::default();
        let Manner { grace, max_unneeded, rate } = self.manner;
        let options = GcOptions {
            defaults: self.keep.or(place.config.keep()),
            grace: grace.map_or(usual.grace, Duration::from_secs),
            max_unneeded: max_unneeded.unwrap_or(usual.max_unneeded),
            rate,
            dry_run: self.dry_run,
            ..usual
        };
        let started = Instant::now();
        let mut bar = Bars::default();
        let report = house.collect(&options, &mut |step| bar.show(step));
        bar.finish();
        let report = report.context(context)?;
        let report = report.ok_or_else(|| Failure::new(format!("{}: {BUSY}", context())))?;
        Ok(report.told(started.elapsed()))
    }
}

const BUSY: &str = "a collection is under way already: wait for it to end";

/// A bar for each thing that is done, one after the other.
#[derive(Default)]
struct Bars(Option<(&'static str, WorkBar)>);

impl Bars {
    fn show(&mut self, step: GcStep) {
        let (what, done) = match step {
            GcStep::Expiring(done) => ("removing paths", done),
            GcStep::Marking(done) => ("marking what is needed", done),
            GcStep::Sweeping(done, _) => ("writing packs anew", done),
        };
        if self.0.as_ref().is_none_or(|(shown, _)| *shown != what) {
            self.finish();
            self.0 = Some((what, WorkBar::new(what)));
        }
        if let Some((_, bar)) = &mut self.0 {
            bar.count(done);
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.0.take() {
            bar.finish();
        }
    }
}

fn packs(count: u64) -> String {
    if count == 1 { "1 pack".to_owned() } else { format!("{count} packs") }
}

/// The report for people.
fn described(report: &GcReport) -> String {
    let (goes, to_be) = if report.dry_run { ("would go", "to be ") } else { ("went", "") };
    let mut lines = Vec::new();
    for cache in &report.caches {
        let gone = cache.gone();
        let size = DecimalBytes(cache.gone_size);
        let name = &cache.name;
        if cache.destroyed {
            lines.push(format!("{name}: destroyed; all of its {gone} paths {goes}"));
            continue;
        }
        let mut line = format!("{name}: {gone} paths ({size}) {goes}");
        let reasons =
            [(cache.unused, "unused"), (cache.old, "old"), (cache.for_space, "for space")];
        let reasons: Vec<String> = reasons
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{count} {why}"))
            .collect();
        if !reasons.is_empty() {
            line += &format!(": {}", reasons.join(", "));
        }
        line += &format!("; {} stay, {} of them pinned", cache.kept, cache.pinned);
        lines.push(line);
    }
    if report.nars > 0 {
        lines.push(format!("{} uploaded NARs without a path {goes}", report.nars));
    }
    if report.files > 0 {
        lines.push(format!("{} logs and other files of what is gone {goes}", report.files));
    }
    let used = &report.packs;
    lines.push(format!(
        "{}: {} of {} needed",
        packs(used.packs),
        DecimalBytes(used.needed),
        DecimalBytes(used.bytes)
    ));
    let condemned = &report.condemned;
    if condemned.packs > 0 {
        let unneeded = DecimalBytes(condemned.bytes - condemned.needed);
        lines.push(format!("{} {to_be}condemned: {unneeded} to come back", packs(condemned.packs)));
    }
    if report.leased.packs > 0 {
        let what = "left alone, for what was sent lately and is not published yet";
        lines.push(format!("{} {what}", packs(report.leased.packs)));
    }
    if report.held > 0 {
        let uploads = match report.held_by_uploads {
            0 => String::new(),
            some => format!(", {some} of them for uploads under way"),
        };
        lines.push(format!("{} wait for their time{uploads}", packs(report.held)));
    }
    if report.lost > 0 {
        let lost = report.lost;
        lines.push(format!("{lost} trees or chunk lists are lost: granary fsck names their paths"));
    }
    if report.blocked {
        let what = "some are in no pack that is here, so no pack is written anew";
        lines.push(format!("{what}: bring the packs back, or push or delete those paths"));
    }
    if report.damaged > 0 {
        lines.push(format!("{} damaged records were left behind", report.damaged));
    }
    if !report.dry_run {
        lines.push(format!(
            "removed {}, moved {}, freed {} in {:.1} s",
            packs(report.removed),
            DecimalBytes(report.moved_bytes),
            DecimalBytes(report.freed_bytes),
            report.took_ms as f64 / 1000.0
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_api::gc::{CacheReport, PackUse};

    #[test]
    fn a_share_is_given_in_percent() {
        assert_eq!(parse_percent("5"), Ok(0.05));
        assert_eq!(parse_percent("12.5%"), Ok(0.125));
        for wrong in ["", "x", "-1", "101", "NaN"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_report_says_what_went_and_what_it_gave() {
        let cache = CacheReport {
            name: "team".to_owned(),
            kept: 7,
            pinned: 2,
            unused: 3,
            gone_size: 4_000_000,
            ..CacheReport::default()
        };
        let report = GcReport {
            caches: vec![cache],
            packs: PackUse { packs: 2, bytes: 20_000_000, needed: 12_000_000 },
            condemned: PackUse { packs: 1, bytes: 10_000_000, needed: 2_000_000 },
            removed: 1,
            moved_bytes: 2_000_000,
            freed_bytes: 8_000_000,
            took_ms: 1540,
            ..GcReport::default()
        };
        assert_eq!(
            described(&report),
            "team: 3 paths (4.00 MB) went: 3 unused; 7 stay, 2 of them pinned\n\
             2 packs: 12.00 MB of 20.00 MB needed\n\
             1 pack condemned: 8.00 MB to come back\n\
             removed 1 pack, moved 2.00 MB, freed 8.00 MB in 1.5 s"
        );
    }
}
