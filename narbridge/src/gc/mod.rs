//! Garbage collection, from the rules of a cache down to the packs.
//!
//! 1. **Expire**: everything of caches that were destroyed ([`bury`]), and paths that the rules of their
//!    cache no longer keep, are removed from the facts ([`expire`]); then NARs that no path is made from ([`nars`]),
//!    and logs, debug info and realisations of what is gone ([`files`]).
//! 2. **Mark** everything that facts name ([`mark`]).
//! 3. **Sweep** packs that were condemned longer ago than the grace period, and **condemn** others
//!    ([`castore::gc`]). Without a grace period both happen in one run.
//!
//! A run can be stopped, or killed, at any point; the next one goes on from what it finds.

mod bury;
mod expire;
mod files;
mod mark;
mod nars;
mod report;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use castore::gc::{Live, Pace, SweepOptions, Swept};
use castore::{CommitError, StoreError, Transaction};

pub use report::GcReport;

use self::expire::Gone;
use crate::accesses::seconds;
use crate::records::COLLECTED;
use crate::retention::Defaults;
use crate::storehouse::{Storehouse, StorehouseError};

/// The share of what is kept that may lie around unneeded before packs are written anew.
pub const MAX_UNNEEDED: f64 = 0.05;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions<'a> {
    /// The rules for caches that have none.
    pub defaults: Defaults,
    /// How long what nothing names any more stays, and destroyed caches can be restored.
    pub grace: Duration,
    /// See [`MAX_UNNEEDED`].
    pub max_unneeded: f64,
    /// Bytes per second that may be read and written for it; `None` for as fast as it goes.
    pub rate: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Ends the run early when it becomes true.
    pub stop: Option<&'a AtomicBool>,
}

impl Default for GcOptions<'_> {
    fn default() -> Self {
        Self {
            defaults: Defaults::default(),
            grace: Duration::from_secs(24 * 3600),
            max_unneeded: MAX_UNNEEDED,
            rate: None,
            dry_run: false,
            stop: None,
        }
    }
}

impl GcOptions<'_> {
    /// Fails when the run is to end early.
    fn go_on(&self) -> Result<(), StorehouseError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(StorehouseError::Stopped),
            _ => Ok(()),
        }
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcStep {
    /// Removing paths from caches: so many are removed.
    Expiring(u64),
    /// Marking what is needed: so many facts are looked at.
    Marking(u64),
    /// Writing packs anew: so many of so many.
    Sweeping(u64, u64),
}

/// Ends when it is dropped.
struct Alone<'a> {
    flag: &'a AtomicBool,
    held: castore::store::Exclusive,
}

impl Alone<'_> {
    /// Fails when another server may have begun.
    fn go_on(&self) -> Result<(), StorehouseError> {
        if self.held.holds() { Ok(()) } else { Err(StorehouseError::Stopped) }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
    }
}

impl Storehouse {
    /// Collects what nobody needs. `None`: somebody is at it already, here or elsewhere. What it is told
    /// to stop at is reported as far as it has come. Blocks.
    pub fn collect(
        &self,
        options: &GcOptions<'_>,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<Option<GcReport>, StorehouseError> {
        let Some(alone) = self.alone()? else { return Ok(None) };
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        match self.collect_alone(&alone, options, &mut report, progress) {
            Ok(()) if !options.dry_run => self.note_collected()?,
            Ok(()) | Err(StorehouseError::Stopped) => {}
            Err(error) => return Err(error),
        }
        Ok(Some(report))
    }

    /// When the last collection ended, in seconds since 1970, here or at another server. `None` where none
    /// has, or the index was made anew since.
    pub fn last_collected(&self) -> Result<Option<u64>, StorehouseError> {
        Ok(self.store().derived(COLLECTED)?.as_deref().and_then(seconds))
    }

    /// Makes one count as having ended now.
    pub fn note_collected(&self) -> Result<(), StorehouseError> {
        Ok(self.store().remember(COLLECTED, &self.store().now().to_be_bytes())?)
    }

    fn collect_alone(
        &self,
        alone: &Alone<'_>,
        options: &GcOptions<'_>,
        report: &mut GcReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<(), StorehouseError> {
        let mut gone = Gone::default();
        self.refresh()?;
        self.bury_all(options, &mut gone, report, progress)?;
        self.expire(options, &mut gone, report, progress)?;
        self.expire_nars(options, &mut gone, report)?;
        self.expire_files(options, &mut gone, report)?;
        if !options.dry_run {
            self.store().seal_open()?;
        }
        let live = self.mark(&gone, options, progress)?;
        report.trees = live.trees;
        report.lost = live.missing + live.damaged;
        report.memory = live.weight();
        // A pack that is missing may come back, from a backup: what its trees name must be there then.
        report.blocked = live.missing > 0;
        alone.go_on()?;
        if !options.dry_run && !report.blocked {
            self.forget_verified(&live)?;
            report.swept = self.sweep(&live, options, progress)?;
        }
        let plan = self.store().plan_packs(&live, options.max_unneeded)?;
        report.packs = plan.clone();
        drop(live);
        options.go_on()?;
        if options.dry_run || report.blocked {
            return Ok(());
        }
        report.tidied = self.store().tidy_objects()?;
        alone.go_on()?;
        self.store().condemn_planned(&plan)?;
        if options.grace.is_zero() && plan.condemn.packs > 0 {
            let live = self.mark(&gone, options, progress)?;
            report.blocked = live.missing > 0;
            if !report.blocked {
                report.swept = report.swept.and(self.sweep(&live, options, progress)?);
            }
        }
        Ok(())
    }

    fn alone(&self) -> Result<Option<Alone<'_>>, StorehouseError> {
        let flag = &self.collecting;
        if flag.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        match self.store().try_exclusive("gc") {
            Ok(Some(held)) => Ok(Some(Alone { flag, held })),
            refused => {
                flag.store(false, Ordering::Release);
                Ok(refused.map(|_| None)?)
            }
        }
    }

    fn sweep(
        &self,
        live: &Live,
        options: &GcOptions<'_>,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<Swept, StorehouseError> {
        let swept = self.store().sweep(
            live,
            SweepOptions {
                grace: options.grace,
                pace: Pace::new(options.rate, options.stop),
                progress: &mut |done, total| progress(GcStep::Sweeping(done, total)),
            },
        )?;
        Ok(swept)
    }

    /// Commits those transactions that still find everything as they expect it. Returns how many these are.
    fn commit_what_holds(&self, transactions: Vec<Transaction>) -> Result<u64, StorehouseError> {
        let mut committed = 0;
        for outcome in self.store().commit_all(transactions) {
            match outcome {
                Ok(_) => committed += 1,
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
        Ok(committed)
    }

    /// The time before which something must have happened for its grace period to be over.
    fn due(&self, options: &GcOptions<'_>) -> u64 {
        self.store().now().saturating_sub(options.grace.as_secs())
    }
}
