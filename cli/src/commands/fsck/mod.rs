//! `granary fsck`

mod report;

use castore::StoreError;
use castore::bytes::PackBackend;
use castore::fsck::{CheckOptions, CheckReport, Depth, check_packs};
use clap::Args;
use indicatif::DecimalBytes;
use narbridge::scrub::BrokenReport;
use narbridge::{Storehouse, StorehouseError};

use crate::failure::{Context, Failure};
use crate::logging;
use crate::output::{note, print, print_json};
use crate::store_place::{RebuildReport, StorePlace};
use crate::work_bar::WorkBar;
use report::{Marked, Report};

/// Problems that are printed. Who wants all of them asks for JSON.
const MAX_PRINTED: usize = 50;

/// Options of `granary fsck`.
#[derive(Args)]
pub struct Fsck {
    #[command(flatten)]
    place: StorePlace,
    /// Remake the index from the packs first
    #[arg(long)]
    rebuild: bool,
    /// Read every byte of every pack, and hold each record against its digest
    #[arg(long)]
    read_data: bool,
    /// Let what is damaged or missing count as missing, so that the next push brings it again
    #[arg(long)]
    mark_damaged: bool,
    /// Write what was found as JSON
    #[arg(long)]
    json: bool,
}

impl Fsck {
    /// Checks the store; fails when something is wrong with it.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let at = self.place.existing()?;
        let place = at.to_string();
        let mut rebuilt = None;
        let opened = if self.rebuild {
            at.rebuild().map(|(house, report)| {
                rebuilt = Some(report);
                house
            })
        } else {
            at.open()
        };
        if let (Some(rebuilt), false) = (&rebuilt, self.json) {
            print(&rebuilt_line(rebuilt))?;
        }
        let (report, failure) = match opened {
            Ok(house) => (self.check(&house, rebuilt.as_ref(), &place)?, None),
            Err(failure) if is_damage(&failure) => {
                note(&format!("{}: checking its packs alone", failure.text()));
                let packs = at.packs()?;
                let checked = self.check_packs(&place, |options| {
                    let backend: &dyn PackBackend = &*packs.backend;
                    check_packs(backend, options)
                })?;
                (Report::new(&place, self.read_data, None, checked, None), Some(failure))
            }
            Err(failure) => return Err(failure),
        };
        if self.json {
            print_json(&report)?;
        } else {
            for problem in report.problems().take(MAX_PRINTED) {
                print(problem)?;
            }
            let beyond = report.count().saturating_sub(MAX_PRINTED);
            if beyond > 0 {
                print(&format!("and {beyond} more: granary fsck --json tells all"))?;
            }
            print(&report.summary())?;
        }
        match (report.count(), failure) {
            (0, None) => Ok(()),
            // What keeps it from opening is nothing that a check of its packs sees.
            (0, Some(failure)) => Err(failure),
            (1, _) => Err(Failure::new(format!("{place}: 1 problem was found"))),
            (n, _) => Err(Failure::new(format!("{place}: {n} problems were found"))),
        }
    }

    fn check(
        &self,
        house: &Storehouse,
        rebuilt: Option<&RebuildReport>,
        place: &str,
    ) -> Result<Report, Failure> {
        let packs = self.check_packs(place, |options| house.store().check(options))?;
        let mut bar = WorkBar::new("checking paths");
        let caches = house.fsck(&packs.damage, &mut |done| bar.count(done));
        bar.finish();
        let caches = caches.context(|| format!("cannot check the caches in {place}"))?;
        let marked = self.mark_damaged.then(|| self.mark(house, &packs, place)).transpose()?;
        let report = Report::new(place, self.read_data, rebuilt, packs, Some(caches));
        Ok(report.with_marked(marked))
    }

    fn mark(
        &self,
        house: &Storehouse,
        packs: &CheckReport,
        place: &str,
    ) -> Result<Marked, Failure> {
        let context = || format!("cannot mark what is damaged in {place}");
        let restored = house.store().recheck_damaged().context(context)?;
        let records = house.store().mark_all_damaged(&packs.damage).context(context)?;
        let mut bar = WorkBar::new("looking for broken paths");
        let broken = house.find_broken(None, &mut |done| bar.count(done));
        bar.finish();
        let BrokenReport { paths, mended, .. } = broken.context(context)?.unwrap_or_default();
        Ok(Marked { records, restored, paths: paths.len() as u64, mended })
    }

    fn check_packs(
        &self,
        place: &str,
        check: impl FnOnce(CheckOptions<'_>) -> Result<CheckReport, StoreError>,
    ) -> Result<CheckReport, Failure> {
        let mut bar = WorkBar::new("reading packs");
        let progress = &mut |news: castore::fsck::CheckProgress| {
            bar.bytes(news.bytes, news.bytes_total, news.packs, news.packs_total);
        };
        let depth = if self.read_data { Depth::Contents } else { Depth::Footers };
        let report = check(CheckOptions { depth, threads: 0, progress });
        bar.finish();
        report.context(|| format!("cannot check the packs in {place}"))
    }
}

/// Whether a store does not open because of what lies in it, which its packs can tell more about.
fn is_damage(failure: &Failure) -> bool {
    matches!(
        failure.cause::<StorehouseError>(),
        Some(StorehouseError::Store(StoreError::Pack(_) | StoreError::Io(_)))
    )
}

fn rebuilt_line(rebuilt: &RebuildReport) -> String {
    let RebuildReport { packs, bytes, took } = rebuilt;
    let seconds = took.as_secs_f64();
    let each = match *bytes {
        0 => String::new(),
        bytes => format!(" ({:.1} s per GB)", seconds / (bytes as f64 / 1e9)),
    };
    let packs = if *packs == 1 { "1 pack".to_owned() } else { format!("{packs} packs") };
    format!("rebuilt the index of {} in {packs} in {seconds:.1} s{each}", DecimalBytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rebuild_says_what_it_takes_per_gigabyte() {
        let line = |packs, bytes| {
            rebuilt_line(&RebuildReport { packs, bytes, took: Duration::from_millis(3100) })
        };
        let expected = "rebuilt the index of 1.90 GB in 12 packs in 3.1 s (1.6 s per GB)";
        assert_eq!(line(12, 1_900_000_000), expected);
        assert_eq!(line(0, 0), "rebuilt the index of 0 B in 0 packs in 3.1 s");
    }
}
