//! Collections: to their end, stopped before it, with others at work meanwhile, or with a kill in between.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use narbridge::gc::{GcOptions, GcReport, GcStep};
use narbridge::retention::Defaults;

use super::settle::Foresight;
use super::*;

/// Rules of servers.
const DEFAULTS: [Defaults; 4] = [
    Defaults { retention: None, max_age: None, max_size: None },
    Defaults { retention: Some(15 * DAY), max_age: None, max_size: None },
    Defaults { retention: Some(40 * DAY), max_age: Some(70 * DAY), max_size: None },
    Defaults { retention: None, max_age: None, max_size: Some(1_000_000) },
];

/// What others do while it is collected.
const MEANWHILE: [What; 10] = [
    What::Publish,
    What::Lone,
    What::Again,
    What::Upload,
    What::Announce,
    What::Told,
    What::Finish,
    What::Send,
    What::Pin,
    What::Delete,
];

impl World {
    pub(super) fn collect(&mut self, how: What, a: u16, b: u16) -> Result<(), Fault> {
        // What was used in this very second would be spared.
        self.pass(1);
        if b.is_multiple_of(2) {
            // Otherwise nothing goes that was condemned after it was prepared.
            self.prepared = None;
        }
        let grace = [0, HOUR, DAY][usize::from(a) % 3];
        let options = GcOptions {
            defaults: DEFAULTS[usize::from(a / 3) % DEFAULTS.len()],
            grace: Duration::from_secs(grace),
            max_unneeded: [0.0, 0.05, 0.3][usize::from(b / 2) % 3],
            ..GcOptions::default()
        };
        if how == What::Dry {
            return self.collect_twice(&options);
        }
        // Early ones are where caches are buried, and paths go.
        let after = usize::from(b / 6) % if b.is_multiple_of(3) { 5 } else { 60 };
        match how {
            What::Stop => self.collect_until(&options, after, false),
            What::Fall => self.collect_until(&options, after, true),
            What::Meanwhile => {
                self.collect_beside(&options, after % 12, u64::from(a) * 1000 + u64::from(b))
            }
            _ => self.collect_all(&options).map(drop),
        }
    }

    fn run(
        &self,
        options: &GcOptions<'_>,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<GcReport, Fault> {
        let report = self.house()?.collect(options, progress).map_err(failed("collecting"))?;
        let report = report.ok_or("somebody is said to collect already")?;
        same("trees that are lost", (report.lost, report.blocked), (0, false))?;
        same("damaged records", report.swept.damaged, 0)?;
        Ok(report)
    }

    pub(super) fn collect_all(&mut self, options: &GcOptions<'_>) -> Result<GcReport, Fault> {
        let foresight = self.foresee_collection(options);
        let report = self.run(options, &mut |_| ())?;
        self.settle(&foresight, Some(&report))?;
        self.count(&report);
        self.verify_all()?;
        Ok(report)
    }

    fn count(&mut self, report: &GcReport) {
        self.tally.collections += 1;
        self.tally.swept += report.swept.packs;
    }

    /// It is said what would go; and then just that goes.
    fn collect_twice(&mut self, options: &GcOptions<'_>) -> Result<(), Fault> {
        let dry = GcOptions { dry_run: true, ..*options };
        let planned = self.run(&dry, &mut |_| ())?;
        self.verify_all()?;
        let done = self.collect_all(options)?;
        same("what was said of caches", &planned.caches, &done.caches)?;
        same("what was said of NARs", planned.nars, done.nars)?;
        same("what was said of trees", planned.trees, done.trees)
    }

    /// It is stopped after so many words of it, or the server is killed.
    fn collect_until(
        &mut self,
        options: &GcOptions<'_>,
        after: usize,
        killed: bool,
    ) -> Result<(), Fault> {
        let foresight = self.foresee_collection(options);
        let house = self.house()?;
        let stop = AtomicBool::new(false);
        let (mut said, mut left) = (0, None::<PathBuf>);
        let options = GcOptions { stop: Some(&stop), ..*options };
        let mut progress = |_| {
            said += 1;
            if said == after + 1 {
                stop.store(true, Ordering::Relaxed);
                left = killed.then(|| self.site.kill());
            }
        };
        let done = house.collect(&options, &mut progress).map_err(failed("collecting"))?;
        let report = done.ok_or("somebody is said to collect already")?;
        drop(house);
        self.count(&report);
        let stopped = stop.load(Ordering::Relaxed);
        self.tally.stopped += u64::from(stopped);
        match left {
            Some(left) => self.bury_process(left, false, Some(&foresight))?,
            None => self.settle(&foresight, (!stopped).then_some(&report))?,
        }
        self.verify_all()
    }

    /// Others are at work while everything is marked.
    fn collect_beside(
        &mut self,
        options: &GcOptions<'_>,
        after: usize,
        seed: u64,
    ) -> Result<(), Fault> {
        let foresight = self.foresee_collection(options);
        let house = self.house()?;
        let (mut said, mut result) = (0, None);
        let mut progress = |step| {
            if !matches!(step, GcStep::Marking(_)) {
                return;
            }
            if said == after {
                result = Some(self.meanwhile(&foresight, seed));
            }
            said += 1;
        };
        let done = house.collect(options, &mut progress).map_err(failed("collecting"))?;
        let report = done.ok_or("somebody is said to collect already")?;
        same("trees that are lost", (report.lost, report.blocked), (0, false))?;
        self.count(&report);
        match result {
            Some(result) => result?,
            None => self.settle(&foresight, Some(&report))?,
        }
        self.verify_all()
    }

    fn meanwhile(&mut self, foresight: &Foresight, seed: u64) -> Result<(), Fault> {
        self.settle(foresight, None)?;
        let mut dice = Dice(seed);
        for _ in 0..3 {
            let what = MEANWHILE[dice.below(MEANWHILE.len() as u64) as usize];
            let number = |dice: &mut Dice| dice.below(1000) as u16;
            let (a, b) = (number(&mut dice), number(&mut dice));
            let op = Op { what, member: dice.below(6) as u8, a, b };
            self.act(&op).map_err(failed(format!("while it is collected, {op}")))?;
        }
        Ok(())
    }
}
