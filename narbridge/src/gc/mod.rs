//! Garbage collection, from the rules of a cache down to the packs.
//!
//! 1. **Expire**: paths that the rules of their cache no longer keep, and everything of caches that were
//!    destroyed, are removed from the facts ([`expire`]); then NARs that no path is made from ([`nars`]).
//! 2. **Mark** everything that facts name ([`mark`]).
//! 3. **Sweep** packs that were condemned longer ago than the grace period, and **condemn** others
//!    ([`castore::gc`]). Without a grace period both happen in one run.
//!
//! A run can be stopped, or killed, at any point; the next one goes on from what it finds.

mod expire;
mod mark;
mod nars;
mod report;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use castore::gc::{Live, Pace, SweepOptions, Swept};

pub use report::GcReport;

use crate::retention::Defaults;
use crate::storehouse::{Storehouse, StorehouseError, now};

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
    _held: castore::store::Exclusive,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::Release);
    }
}

impl Storehouse {
    /// Collects what nobody needs. `None`: somebody is at it already, here or elsewhere. Blocks.
    pub fn collect(
        &self,
        options: &GcOptions<'_>,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<Option<GcReport>, StorehouseError> {
        let Some(_alone) = self.alone()? else { return Ok(None) };
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        let stopped = || options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        self.refresh()?;
        let mut gone = self.expire(options, &mut report, progress)?;
        if stopped() {
            return Ok(Some(report));
        }
        self.expire_nars(options, &mut gone, &mut report)?;
        if !options.dry_run {
            self.store().seal_open()?;
        }
        let live = self.mark(&gone, progress)?;
        report.trees = live.trees;
        report.lost = live.missing + live.damaged;
        report.memory = live.weight();
        // A pack that is missing may come back, from a backup: what its trees name must be there then.
        report.blocked = live.missing > 0;
        if !options.dry_run && !stopped() && !report.blocked {
            self.forget_verified(&live)?;
            report.swept = self.sweep(&live, options, progress)?;
        }
        let plan = self.store().plan_packs(&live, options.max_unneeded)?;
        report.packs = plan.clone();
        drop(live);
        if options.dry_run || stopped() || report.blocked {
            return Ok(Some(report));
        }
        report.tidied = self.store().tidy_objects()?;
        self.store().condemn_planned(&plan)?;
        if options.grace.is_zero() && plan.condemn.packs > 0 {
            let live = self.mark(&gone, progress)?;
            report.blocked = live.missing > 0;
            if !report.blocked {
                report.swept = report.swept.and(self.sweep(&live, options, progress)?);
            }
        }
        Ok(Some(report))
    }

    fn alone(&self) -> Result<Option<Alone<'_>>, StorehouseError> {
        let flag = &self.collecting;
        if flag.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        match self.store().try_exclusive("gc") {
            Ok(Some(held)) => Ok(Some(Alone { flag, _held: held })),
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

    /// The time before which something must have happened for its grace period to be over.
    fn due(options: &GcOptions<'_>) -> u64 {
        now().saturating_sub(options.grace.as_secs())
    }
}
