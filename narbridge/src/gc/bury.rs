//! Removing all that is left of caches that were destroyed.

use castore::{CommitError, Expected, StoreError, Transaction};
use granary_api::gc::CacheReport;

use super::expire::Gone;
use super::report::GcReport;
use super::{GcOptions, GcStep};
use crate::cache::Cache;
use crate::records::{
    file_prefix, nar_prefix, path_prefix, pin_prefix, profile_prefix, sent_prefix,
    signature_prefix, used_prefix,
};
use crate::storehouse::{Storehouse, StorehouseError};

/// Facts that are removed with one write.
const AT_ONCE: usize = 256;
/// Derived values that are forgotten at once.
const FORGOTTEN: usize = 1000;

impl Storehouse {
    /// Removes everything of caches that were destroyed longer ago than the grace period. What a dry run
    /// takes for gone is.
    pub(super) fn bury_all(
        &self,
        options: &GcOptions<'_>,
        gone: &mut Gone,
        report: &mut GcReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<(), StorehouseError> {
        let due = self.due(options);
        for cache in self.caches() {
            if cache.destroyed().is_none_or(|when| when > due) {
                continue;
            }
            // One that is empty and still is being buried has to be made fit to be restored.
            if !cache.is_being_buried() && self.is_empty(&cache)? {
                continue;
            }
            let mut buried = CacheReport { name: cache.name().to_string(), ..Default::default() };
            buried.destroyed = true;
            let mut ended = Ok(());
            if options.dry_run {
                ended = self.each_fact(&path_prefix(cache.number()), |_, _| {
                    buried.for_space += 1;
                    options.go_on()
                });
                gone.caches.insert(cache.number());
            } else if self.begin_burial(cache.name(), due)? {
                ended = self.bury(&cache, options, &mut buried, progress);
                ended = ended.and_then(|()| self.end_burial(cache.name()));
            }
            // One that was restored just now, or lost its paths before, is not worth a word.
            if buried.for_space > 0 {
                report.caches.push(buried);
            }
            ended?;
        }
        Ok(())
    }

    fn is_empty(&self, cache: &Cache) -> Result<bool, StoreError> {
        for prefix in facts_of(cache.number()) {
            if !self.store().scan_facts(&prefix, None, 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// It cannot be restored until this has been to the end, if need be by another run.
    fn bury(
        &self,
        cache: &Cache,
        options: &GcOptions<'_>,
        report: &mut CacheReport,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<(), StorehouseError> {
        let number = cache.number();
        for (at, prefix) in facts_of(number).into_iter().enumerate() {
            loop {
                options.go_on()?;
                let page = self.store().scan_facts(&prefix, None, AT_ONCE)?;
                if page.is_empty() {
                    break;
                }
                let paths = if at == 0 { page.len() as u64 } else { 0 };
                let mut transaction = Transaction::default();
                for (key, fact) in page {
                    transaction.remove(key, Expected::Since(fact.sequence));
                }
                match self.store().commit(transaction) {
                    Ok(_) => {
                        report.for_space += paths;
                        progress(GcStep::Expiring(report.for_space));
                    }
                    // Who had begun before the cache was destroyed comes to an end.
                    Err(CommitError::Conflict) => {}
                    Err(error) => return Err(StoreError::from(error).into()),
                }
            }
        }
        for prefix in [signature_prefix(number), profile_prefix(number), used_prefix(number)] {
            loop {
                options.go_on()?;
                let page = self.store().scan_derived(&prefix, None, FORGOTTEN)?;
                if page.is_empty() {
                    break;
                }
                let keys: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
                self.store().forget_all(&keys)?;
            }
        }
        Ok(())
    }
}

/// What the keys of a cache's facts start with; those of paths come first.
fn facts_of(number: u32) -> [Vec<u8>; 5] {
    [
        path_prefix(number),
        nar_prefix(number),
        file_prefix(number),
        sent_prefix(number),
        pin_prefix(number),
    ]
}
