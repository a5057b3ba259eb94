//! Removing paths that the rules of their caches no longer keep.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use castore::Cause;
use granary_api::gc::CacheReport;
use nix_compat::store_path::StorePathHash;

use super::report::GcReport;
use super::{GcOptions, GcStep};
use crate::cache::{Cache, CacheError};
use crate::retention::{CachePlan, Expired, Review, Terms, Why};
use crate::storehouse::{Storehouse, StorehouseError};

/// Paths that are removed with one write.
const AT_ONCE: usize = 256;

/// For how long what was uploaded or asked for goes neither for its age nor for space, unless the grace
/// period is shorter: that long a push may take which found it there.
const FRESH: Duration = Duration::from_secs(3600);

/// How often a cache is planned anew because something was pinned while its paths were removed.
const ATTEMPTS: usize = 5;

/// What a dry run takes for removed. Where things are removed really it is empty.
#[derive(Default)]
pub(super) struct Gone {
    /// Paths, by the number of their cache.
    pub paths: HashSet<(u32, StorePathHash)>,
    /// The keys of NARs.
    pub nars: HashSet<Vec<u8>>,
    /// The keys of logs, debug info and realisations.
    pub files: HashSet<Vec<u8>>,
    /// The numbers of caches that go as a whole.
    pub caches: HashSet<u32>,
}

/// Why removing paths ended.
#[derive(PartialEq, Eq)]
enum Ended {
    /// Everything that was to go is gone, or has come to use again.
    Done,
    /// Something was pinned meanwhile.
    Pinned,
}

impl Storehouse {
    /// Removes paths from all caches. What a dry run takes for gone is.
    pub(super) fn expire(
        &self,
        options: &GcOptions<'_>,
        gone: &mut Gone,
        report: &mut GcReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<(), StorehouseError> {
        for cache in self.caches() {
            options.go_on()?;
            let mut of_cache = CacheReport { name: cache.name().to_string(), ..Default::default() };
            let expired = self.expire_paths(&cache, options, gone, &mut of_cache, progress);
            // It has rules, or there was something to do.
            if of_cache.kept + of_cache.gone() > 0 {
                report.caches.push(of_cache);
            }
            expired?;
        }
        Ok(())
    }

    fn expire_paths(
        &self,
        cache: &Arc<Cache>,
        options: &GcOptions<'_>,
        gone: &mut Gone,
        report: &mut CacheReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<(), StorehouseError> {
        if cache.destroyed().is_some() || options.defaults.of(cache).keep_all() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let now = self.store().now();
            let fresh = now.saturating_sub(FRESH.min(options.grace).as_secs());
            let terms = Terms { defaults: &options.defaults, now, fresh };
            // Before the pins are read: who pins later is noticed when it comes to removing.
            let pins = cache.last_pinned()?;
            let roots = match cache.pinned_roots(now) {
                // It has said what is wrong. Other caches have nothing to do with it.
                Err(CacheError::Store(error)) if error.cause() == Cause::Lost => return Ok(()),
                roots => roots?,
            };
            let Some(plan) = self.plan_retention(cache, &terms, &roots)? else { return Ok(()) };
            (report.kept, report.kept_size) = (plan.kept.paths, plan.kept.size);
            (report.pinned, report.spared) = (plan.pinned.paths, 0);
            if options.dry_run {
                for path in &plan.expired {
                    count(report, path);
                    gone.paths.insert((cache.number(), path.hash));
                }
                return Ok(());
            }
            if remove(&plan, pins, options, report, progress)? == Ended::Done {
                return Ok(());
            }
        }
        tracing::info!(
            cache = %cache.name(),
            "paths were pinned again and again while others were removed: the rest has to wait"
        );
        Ok(())
    }
}

/// A path goes.
fn count(report: &mut CacheReport, path: &Expired) {
    match path.why {
        Why::Unused => report.unused += 1,
        Why::Old => report.old += 1,
        Why::Space => report.for_space += 1,
    }
    report.gone_size += path.file_size;
}

fn remove(
    plan: &CachePlan,
    pins: u64,
    options: &GcOptions<'_>,
    report: &mut CacheReport,
    progress: &mut dyn FnMut(GcStep),
) -> Result<Ended, StorehouseError> {
    let mut review = plan.review();
    let before = report.kept;
    let mut ended = Ended::Done;
    while ended == Ended::Done {
        options.go_on()?;
        // Nobody is told of a path, or publishes what refers to it, between the last look at it and its end.
        let _deciding = plan.cache.decide_alone();
        let batch: Vec<_> = review.by_ref().take(AT_ONCE).collect::<Result<_, _>>()?;
        report.spared = review.spared();
        report.kept = before + report.spared;
        if batch.is_empty() {
            break;
        }
        let facts: Vec<_> = batch.iter().map(|path| (path.hash, path.sequence)).collect();
        if plan.cache.remove_together(&facts, pins)? {
            batch.into_iter().for_each(|path| count(report, path));
        } else {
            ended = remove_singly(plan, &mut review, &batch, pins, report)?;
        }
        progress(GcStep::Expiring(report.gone()));
    }
    Ok(ended)
}

/// One of them was pushed again, by another server. It stays with what it refers to, of which more may be
/// among these.
fn remove_singly(
    plan: &CachePlan,
    review: &mut Review<'_>,
    batch: &[&Expired],
    pins: u64,
    report: &mut CacheReport,
) -> Result<Ended, StorehouseError> {
    for path in batch {
        if !review.still_goes(path)? {
            continue;
        }
        if plan.cache.remove_together(&[(path.hash, path.sequence)], pins)? {
            count(report, path);
        } else if plan.cache.last_pinned()? != pins {
            return Ok(Ended::Pinned);
        } else {
            review.spare(path.hash)?;
        }
    }
    Ok(Ended::Done)
}
