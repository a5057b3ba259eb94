//! Scrubbing: reading everything at a set rate, and finding out which paths suffer from what is damaged.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use castore::fsck::{Damage, ScrubProgress, Scrubbed};
use castore::gc::Pace;
use castore::{Digest, Place};
use nix_compat::store_path::{StorePath, StorePathHash};

use crate::cache::Cache;
use crate::fsck::Trees;
use crate::records::{NarRecord, PathRecord, decode, digest, nar_prefix, path_prefix};
use crate::storehouse::{Storehouse, StorehouseError};

/// How to scrub.
#[derive(Clone, Copy, Default)]
pub struct ScrubOptions<'a> {
    /// Bytes per second that may be read; `None` for as fast as it goes.
    pub rate: Option<u64>,
    /// Threads that decode and hash; 0 for one per core.
    pub threads: usize,
    /// Whether to go on where a scrub was stopped, instead of at the beginning.
    pub resume: bool,
    /// Ends it early when it becomes true. The next one can go on from there.
    pub stop: Option<&'a AtomicBool>,
}

/// What a scrub is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// Reading packs.
    Packs(ScrubProgress),
    /// Looking at what caches say: so many paths and NARs.
    Paths(u64),
}

/// Paths that are broken.
#[derive(Debug, Default)]
pub struct BrokenReport {
    /// By cache and store path, each once.
    pub paths: BTreeSet<(String, String)>,
    /// Different trees that are broken.
    pub trees: u64,
    /// Trees that were broken and are whole again.
    pub mended: u64,
}

/// What a scrub found.
#[derive(Debug, Default)]
pub struct ScrubReport {
    /// In the packs.
    pub packs: Scrubbed,
    /// In the caches. `None` where it was stopped before that.
    pub broken: Option<BrokenReport>,
}

impl Storehouse {
    /// Reads every byte of every sealed pack, marks what is damaged, and with that the paths that are
    /// broken. `None`: somebody else scrubs this store. Blocks.
    pub fn scrub(
        &self,
        options: ScrubOptions<'_>,
        progress: &mut dyn FnMut(ScrubStep),
    ) -> Result<Option<ScrubReport>, StorehouseError> {
        let Some(_alone) = self.store().try_exclusive("scrub")? else { return Ok(None) };
        let ScrubOptions { rate, threads, resume, stop } = options;
        let mut pace = Pace::new(rate, stop);
        let packs = self.store().scrub(resume, threads, &mut pace, &mut |news| {
            progress(ScrubStep::Packs(news));
        })?;
        let broken = match packs.finished {
            true => self.find_broken(stop, &mut |done| progress(ScrubStep::Paths(done)))?,
            false => None,
        };
        Ok(Some(ScrubReport { packs, broken }))
    }

    /// Walks the trees of all paths and NARs, and marks those that are not all there; those that are
    /// again lose their marks. `None` where it was stopped. Blocks.
    pub fn find_broken(
        &self,
        stop: Option<&AtomicBool>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<BrokenReport>, StorehouseError> {
        // Where the packs' place is not there, nothing is, and that says nothing.
        self.store().reach(Place::Packs)?;
        let before = self.broken().all();
        let damage = Damage::default();
        let mut trees = Trees::new(self.store(), &damage);
        let mut suspects: HashSet<Digest> = before.iter().copied().collect();
        let mut named: Vec<(String, String, Digest)> = Vec::new();
        let mut done = 0;
        let stopped = || stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        for cache in self.caches() {
            let number = cache.number();
            self.each_fact(&path_prefix(number), |key, fact| {
                if stopped() {
                    return Ok(());
                }
                done += 1;
                progress(done);
                // What does not decode is fsck's to tell.
                let Ok(record) = decode::<PathRecord>("a path", &fact.value) else { return Ok(()) };
                let Ok(tree) = digest(&record.name, &record.tree) else { return Ok(()) };
                if suspects.contains(&tree) || trees.check(&tree)?.is_err() {
                    suspects.insert(tree);
                    named.extend(
                        full_path(&cache, key, &record)
                            .map(|path| (cache.name().to_string(), path, tree)),
                    );
                }
                Ok(())
            })?;
            self.each_fact(&nar_prefix(number), |_, fact| {
                if stopped() {
                    return Ok(());
                }
                done += 1;
                progress(done);
                let Ok(record) = decode::<NarRecord>("a NAR", &fact.value) else { return Ok(()) };
                let Ok(tree) = digest("a NAR", &record.tree) else { return Ok(()) };
                if !suspects.contains(&tree) && trees.check(&tree)?.is_err() {
                    suspects.insert(tree);
                }
                Ok(())
            })?;
        }
        if stopped() {
            return Ok(None);
        }
        // Again, since that may have gone meanwhile, and with it all that was found.
        self.store().reach(Place::Packs)?;
        let mut broken = HashSet::new();
        for tree in suspects {
            if self.broken().look(&tree)? {
                broken.insert(tree);
            }
        }
        let mended = before.iter().filter(|tree| !broken.contains(tree)).count() as u64;
        let named = named.into_iter().filter(|(_, _, tree)| broken.contains(tree));
        let paths = named.map(|(cache, path, _)| (cache, path)).collect();
        Ok(Some(BrokenReport { paths, trees: broken.len() as u64, mended }))
    }
}

fn full_path(cache: &Cache, key: &[u8], record: &PathRecord) -> Option<String> {
    let hash: StorePathHash = <[u8; 20]>::try_from(key).ok()?.into();
    let path = StorePath::new(hash, &record.name).ok()?;
    Some(path.to_absolute(cache.store_dir()))
}
