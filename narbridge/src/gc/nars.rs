//! NARs that were uploaded, and that no path is made from: the path was removed, or never published.

use std::collections::HashSet;
use std::time::Duration;

use castore::{Expected, Fact, Transaction};
use nix_compat::nixhash::Sha256;

use super::GcOptions;
use super::expire::Gone;
use super::report::GcReport;
use crate::cache::Cache;
use crate::records::{
    BROKEN, NarRecord, PathRecord, VERIFIED, decode, nar_key, nar_prefix, nar_sender_prefix,
    path_prefix, sha256,
};
use crate::storehouse::{Storehouse, StorehouseError};

/// Facts that are read at once.
const PAGE: usize = 1000;
/// NARs that are removed with one write.
const AT_ONCE: usize = 256;

/// How long a NAR waits for its narinfo, which Nix sends next. However short the grace period is. One that
/// was published since it came waits no longer.
pub(super) const AWAITS_NARINFO: Duration = Duration::from_secs(15 * 60);

impl Storehouse {
    /// Removes the NARs that no path is made from. What a dry run takes for gone is.
    pub(super) fn expire_nars(
        &self,
        options: &GcOptions<'_>,
        gone: &mut Gone,
        report: &mut GcReport,
    ) -> Result<(), StorehouseError> {
        for cache in self.caches() {
            if !gone.caches.contains(&cache.number()) {
                report.nars += self.expire_nars_of(&cache, options, gone)?;
            }
        }
        Ok(())
    }

    fn expire_nars_of(
        &self,
        cache: &Cache,
        options: &GcOptions<'_>,
        gone: &mut Gone,
    ) -> Result<u64, StorehouseError> {
        let number = cache.number();
        // Who publishes a path writes its NAR's fact with it: one that was not written after this belongs
        // to a path that is seen below, or to none.
        let before = self.store().last_sequence()?;
        let mut named: HashSet<[u8; 16]> = HashSet::new();
        self.each_fact(&path_prefix(number), |key, fact| {
            options.go_on()?;
            let hash = <[u8; 20]>::try_from(key).map(Into::into);
            if !hash.is_ok_and(|hash| gone.paths.contains(&(number, hash))) {
                let record: PathRecord = decode("a path", &fact.value)?;
                named.insert(short(sha256(&record.name, &record.nar_hash)?));
            }
            Ok(())
        })?;
        let due = self.due(options);
        let awaits = self.store().now().saturating_sub(AWAITS_NARINFO.as_secs());
        let mut orphans = Vec::new();
        self.each_fact(&nar_prefix(number), |key, fact| {
            options.go_on()?;
            let record: NarRecord = decode("a NAR", &fact.value)?;
            let nar = sha256("a NAR", &record.nar_hash)?;
            let wanted = named.contains(&short(nar)) || fact.sequence > before;
            let is_due = !wanted && record.uploaded <= due;
            if is_due && (record.uploaded <= awaits || self.was_published(number, nar, &fact)?) {
                orphans.push(([&nar_prefix(number)[..], key].concat(), fact.sequence));
            }
            Ok(())
        })?;
        if options.dry_run {
            let count = orphans.len() as u64;
            gone.nars.extend(orphans.into_iter().map(|(key, _)| key));
            return Ok(count);
        }
        let mut removed = 0;
        for batch in orphans.chunks(AT_ONCE) {
            let transactions =
                batch.iter().map(|(key, sequence)| self.removal(cache, key, *sequence));
            // One that somebody has come for stays.
            removed += self.commit_what_holds(transactions.collect::<Result<_, _>>()?)?;
        }
        Ok(removed)
    }

    /// The transaction that removes a NAR, and who has sent it.
    fn removal(
        &self,
        cache: &Cache,
        key: &[u8],
        sequence: u64,
    ) -> Result<Transaction, StorehouseError> {
        let mut transaction = Transaction::default();
        transaction.remove(key.to_vec(), Expected::Since(sequence));
        let hash = &key[nar_prefix(cache.number()).len()..];
        if let Ok(hash) = <[u8; 32]>::try_from(hash).map(Sha256::from) {
            let senders = nar_sender_prefix(cache.number(), hash);
            self.each_fact(&senders, |subject, fact| {
                let key = [&senders[..], subject].concat();
                transaction.remove(key, Expected::Since(fact.sequence));
                Ok(())
            })?;
        }
        Ok(transaction)
    }

    /// Whether a path was published with this NAR after that fact of it was written.
    fn was_published(&self, cache: u32, nar: Sha256, fact: &Fact) -> Result<bool, StorehouseError> {
        let Some(last) = self.store().fact(&nar_key(cache, nar))? else { return Ok(false) };
        let record: NarRecord = decode("a NAR", &last.value)?;
        Ok(record.published && last.sequence >= fact.sequence)
    }

    /// Forgets what was verified of trees that nothing needs, and that they were broken.
    pub(super) fn forget_verified(&self, live: &castore::gc::Live) -> Result<(), StorehouseError> {
        self.forget_trees(VERIFIED, live)?;
        self.forget_trees(BROKEN, live)?;
        Ok(self.broken().refresh()?)
    }

    fn forget_trees(&self, prefix: &[u8], live: &castore::gc::Live) -> Result<(), StorehouseError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store().scan_derived(prefix, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let unneeded = |key: &Vec<u8>| {
                castore::Digest::from_slice(&key[prefix.len()..])
                    .is_none_or(|tree| !live.may_need_tree(&tree))
            };
            let keys = page.into_iter().map(|(key, _)| key).filter(unneeded).collect::<Vec<_>>();
            self.store().forget_all(&keys)?;
        }
    }
}

fn short(hash: Sha256) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}
