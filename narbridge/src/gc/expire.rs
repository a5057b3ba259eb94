//! Removing paths that the rules of their caches no longer keep, and what is left of destroyed caches.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use castore::{Expected, StoreError, Transaction};
use granary_api::gc::CacheReport;
use nix_compat::store_path::StorePathHash;

use super::report::GcReport;
use super::{GcOptions, GcStep};
use crate::cache::{Cache, PINS};
use crate::records::{file_prefix, nar_prefix, path_prefix, pin_prefix, sent_prefix};
use crate::retention::{CachePlan, Why};
use crate::storehouse::{CACHES, Storehouse, StorehouseError, now};

/// Paths that are removed with one write.
const AT_ONCE: usize = 256;

/// What a dry run takes for removed. Where things are removed really it is empty.
#[derive(Default)]
pub(super) struct Gone {
    /// Paths, by the number of their cache.
    pub paths: HashSet<(u32, StorePathHash)>,
    /// The keys of NARs.
    pub nars: HashSet<Vec<u8>>,
    /// The numbers of caches that go as a whole.
    pub caches: HashSet<u32>,
}

impl Storehouse {
    pub(super) fn expire(
        &self,
        options: &GcOptions<'_>,
        report: &mut GcReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<Gone, StorehouseError> {
        let mut gone = Gone::default();
        let due = Self::due(options);
        let caches = self.store().last_touched(CACHES)?;
        let destroyed = |cache: &Arc<Cache>| cache.destroyed().is_some_and(|when| when <= due);
        for cache in self.caches().into_iter().filter(destroyed) {
            let mut buried = CacheReport { name: cache.name().to_string(), ..Default::default() };
            buried.destroyed = true;
            self.bury(&cache, caches, options, &mut buried)?;
            if options.dry_run {
                gone.caches.insert(cache.number());
            }
            // One that was emptied by an earlier run is not worth a word.
            if buried.for_space > 0 {
                report.caches.push(buried);
            }
        }
        // Before the pins are read: who pins later is noticed when it comes to removing.
        let pins = self.store().last_touched(PINS)?;
        let pinned = |cache: &Cache| Ok(cache.pinned_roots(now())?);
        for plan in self.plan_retention(&options.defaults, now(), pinned)? {
            let mut expired = CacheReport {
                name: plan.cache.name().to_string(),
                kept: plan.kept.paths,
                kept_size: plan.kept.size,
                pinned: plan.pinned.paths,
                ..Default::default()
            };
            if options.dry_run {
                for path in &plan.expired {
                    count(&mut expired, path.why, path.file_size);
                    gone.paths.insert((plan.cache.number(), path.hash));
                }
            } else {
                remove(&plan, pins, options, &mut expired, progress)?;
            }
            report.caches.push(expired);
        }
        Ok(gone)
    }

    /// Removes everything of a cache that was destroyed, unless caches were changed since they were looked at.
    fn bury(
        &self,
        cache: &Cache,
        caches: u64,
        options: &GcOptions<'_>,
        report: &mut CacheReport,
    ) -> Result<(), StorehouseError> {
        let number = cache.number();
        let prefixes = [path_prefix(number), nar_prefix(number), file_prefix(number)];
        for (at, prefix) in
            prefixes.into_iter().chain([sent_prefix(number), pin_prefix(number)]).enumerate()
        {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = self.store().scan_facts(&prefix, after.as_deref(), AT_ONCE)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                report.for_space += if at == 0 { page.len() as u64 } else { 0 };
                if options.dry_run {
                    continue;
                }
                let mut transaction = Transaction::default();
                for (key, fact) in page {
                    transaction.remove(key, Expected::Since(fact.sequence));
                }
                // It may have been restored: then nothing more of it goes.
                transaction.untouched(CACHES, caches);
                match self.store().commit(transaction) {
                    Err(castore::CommitError::Conflict) => return Ok(()),
                    removed => drop(removed.map_err(StoreError::from)?),
                }
            }
        }
        Ok(())
    }
}

/// A path goes, for this reason.
fn count(report: &mut CacheReport, why: Why, size: u64) {
    match why {
        Why::Unused => report.unused += 1,
        Why::Old => report.old += 1,
        Why::Space => report.for_space += 1,
    }
    report.gone_size += size;
}

fn remove(
    plan: &CachePlan,
    pins: u64,
    options: &GcOptions<'_>,
    report: &mut CacheReport,
    progress: &mut dyn FnMut(GcStep),
) -> Result<(), StorehouseError> {
    let mut review = plan.review();
    loop {
        if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            break;
        }
        // Nobody is told of a path between the last look at it and its end.
        let _deciding = plan.cache.decide_alone();
        let batch: Vec<_> = review.by_ref().take(AT_ONCE).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        let facts: Vec<_> = batch.iter().map(|path| (path.hash, path.sequence)).collect();
        let removed = plan.cache.remove_paths(&facts, Some((PINS, pins)))?;
        for (path, removed) in batch.into_iter().zip(removed) {
            if removed {
                count(report, path.why, path.file_size);
            } else {
                review.spare(path.hash)?;
            }
        }
        progress(GcStep::Expiring(report.gone()));
    }
    report.spared = review.spared();
    report.kept += report.spared;
    Ok(())
}
