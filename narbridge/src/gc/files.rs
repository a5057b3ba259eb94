//! Logs, debug info and realisations of what is gone: nobody has any use for them.

use std::collections::HashMap;

use castore::{Expected, Transaction};
use nix_compat::store_path::StorePathHash;

use super::GcOptions;
use super::expire::Gone;
use super::nars::AWAITS_NARINFO;
use super::report::GcReport;
use crate::cache::{About, Cache};
use crate::records::{FileRecord, PathRecord, decode, file_prefix, nar_key, path_key, path_prefix};
use crate::storehouse::{Storehouse, StorehouseError};

/// Files that are looked at, or removed, at once.
const AT_ONCE: usize = 256;

/// A file that may have to go.
struct Candidate {
    key: Vec<u8>,
    sequence: u64,
    /// The key that must still be missing when it goes. For a log there is none: many paths can come from
    /// one derivation.
    needs: Option<Vec<u8>>,
}

impl Storehouse {
    /// Removes files of what is gone. What a dry run takes for gone is.
    pub(super) fn expire_files(
        &self,
        options: &GcOptions<'_>,
        gone: &mut Gone,
        report: &mut GcReport,
    ) -> Result<(), StorehouseError> {
        for cache in self.caches() {
            if gone.caches.contains(&cache.number()) {
                continue;
            }
            let orphans = self.orphans(&cache, options, gone)?;
            if options.dry_run {
                report.files += orphans.len() as u64;
                gone.files.extend(orphans.into_iter().map(|file| file.key));
            } else {
                report.files += self.remove_files(&orphans)?;
            }
        }
        Ok(())
    }

    fn orphans(
        &self,
        cache: &Cache,
        options: &GcOptions<'_>,
        gone: &Gone,
    ) -> Result<Vec<Candidate>, StorehouseError> {
        let (number, rules) = (cache.number(), options.defaults.of(cache));
        let now = self.store().now();
        // Nix sends debug info before the NAR that it lies in.
        let due = self.due(options).min(now.saturating_sub(AWAITS_NARINFO.as_secs()));
        let (mut orphans, mut open) = (Vec::new(), Vec::with_capacity(AT_ONCE));
        let mut logs: HashMap<StorePathHash, Vec<Candidate>> = HashMap::new();
        let prefix = file_prefix(number);
        self.each_fact(&prefix, |name, fact| {
            options.go_on()?;
            let record: FileRecord = decode("a file", &fact.value)?;
            if record.uploaded > due {
                return Ok(());
            }
            let candidate = |needs| {
                let key = [&prefix[..], name].concat();
                Candidate { key, sequence: fact.sequence, needs }
            };
            match About::of(&String::from_utf8_lossy(name), &record) {
                // It may be all there is of a build that failed. Nobody reads one often enough to count that
                // as a use.
                Some(About::Derivation(hash)) if rules.outlived(record.uploaded, now) => {
                    logs.entry(hash).or_default().push(candidate(None));
                }
                Some(About::Path(hash)) => match gone.paths.contains(&(number, hash)) {
                    true => orphans.push(candidate(None)),
                    false => open.push(candidate(Some(path_key(number, hash)))),
                },
                Some(About::Nar(hash)) => match nar_key(number, hash) {
                    nar if gone.nars.contains(&nar) => orphans.push(candidate(None)),
                    nar => open.push(candidate(Some(nar))),
                },
                Some(About::Derivation(_)) | None => {}
            }
            if open.len() == AT_ONCE {
                self.without_what_they_need(&mut open, &mut orphans)?;
            }
            Ok::<_, StorehouseError>(())
        })?;
        self.without_what_they_need(&mut open, &mut orphans)?;
        if !logs.is_empty() {
            self.each_fact(&path_prefix(number), |key, fact| {
                options.go_on()?;
                let Ok(hash) = <[u8; 20]>::try_from(key).map(StorePathHash::from) else {
                    return Ok(());
                };
                if !gone.paths.contains(&(number, hash)) {
                    let record: PathRecord = decode("a path", &fact.value)?;
                    logs.remove(&hash);
                    if let Some(deriver) = record.deriver_hash() {
                        logs.remove(&deriver);
                    }
                }
                Ok::<_, StorehouseError>(())
            })?;
            orphans.extend(logs.into_values().flatten());
        }
        Ok(orphans)
    }

    /// Moves those over that lack what they need, and drops the others.
    fn without_what_they_need(
        &self,
        open: &mut Vec<Candidate>,
        orphans: &mut Vec<Candidate>,
    ) -> Result<(), StorehouseError> {
        let needs: Vec<Vec<u8>> = open.iter().filter_map(|file| file.needs.clone()).collect();
        let there = self.store().facts_exist(&needs)?;
        let lacking = open.drain(..).zip(there).filter(|(_, there)| !there);
        orphans.extend(lacking.map(|(file, _)| file));
        Ok(())
    }

    fn remove_files(&self, files: &[Candidate]) -> Result<u64, StorehouseError> {
        let mut removed = 0;
        for batch in files.chunks(AT_ONCE) {
            let transactions = batch.iter().map(|file| {
                let mut transaction = Transaction::default();
                transaction.remove(file.key.clone(), Expected::Since(file.sequence));
                if let Some(needs) = &file.needs {
                    transaction.forbid(needs.clone());
                }
                transaction
            });
            // One stays when what it is about has just come back, or it was uploaded again.
            removed += self.commit_what_holds(transactions.collect())?;
        }
        Ok(removed)
    }
}
