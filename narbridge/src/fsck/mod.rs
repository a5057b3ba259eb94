//! Checking what the caches say against what the store holds.
//!
//! Every path of every cache, those of destroyed caches included since they may be restored, must
//! lead to a tree, its chunk lists and its chunks; so must the names of NARs, and the other files that
//! clients keep. Nothing is changed, and only a store or an index that does not answer ends the check.
//!
//! A tree is walked once, however many paths have it: its digest is remembered, which takes some 60
//! bytes, or 60 MB for a million different paths.

mod problem;
mod trees;

use std::collections::BTreeSet;

use castore::fsck::Damage;
use castore::{Digest, StoreError};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StorePath, StorePathHash};

pub use problem::{Flaw, HouseProblem, Subject, TreeFlaw, TreeProblem};

use crate::cache::Cache;
use crate::records::{
    FileRecord, NarRecord, PathRecord, decode, digest, file_prefix, nar_key, nar_prefix,
    path_prefix, sha256,
};
use crate::storehouse::{Storehouse, StorehouseError};
pub(crate) use trees::Trees;

/// What a check of the caches found.
#[derive(Debug, Default)]
pub struct HouseReport {
    /// Caches.
    pub caches: u64,
    /// Those among them that were destroyed.
    pub destroyed: u64,
    /// Paths that were checked.
    pub paths: u64,
    /// Names of NARs that were checked.
    pub nars: u64,
    /// Logs, debug infos and realisations that were checked.
    pub files: u64,
    /// Different trees.
    pub trees: u64,
    /// Chunks of these trees, each counted wherever it appears.
    pub chunks: u64,
    /// Bytes of the files of these trees.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<HouseProblem>,
}

impl HouseReport {
    /// The damaged paths, by cache and store path, each once.
    pub fn damaged_paths(&self) -> BTreeSet<(&str, &str)> {
        self.problems
            .iter()
            .filter_map(|problem| match &problem.subject {
                Subject::Path(path) => Some((problem.cache.as_str(), path.as_str())),
                Subject::Nar(_) | Subject::File(_) => None,
            })
            .collect()
    }
}

impl Storehouse {
    /// Checks all caches. `damage` is what a check of the packs found, which chunks must not lie in;
    /// `progress` is told how many paths, NARs and files are checked.
    pub fn fsck(
        &self,
        damage: &Damage,
        progress: &mut dyn FnMut(u64),
    ) -> Result<HouseReport, StorehouseError> {
        let trees = Trees::new(self.store(), damage);
        let mut check = Check { house: self, trees, report: HouseReport::default(), progress };
        for cache in self.caches() {
            check.report.caches += 1;
            check.report.destroyed += u64::from(cache.destroyed().is_some());
            check.paths(&cache)?;
            check.nars(&cache)?;
            check.files(&cache)?;
        }
        let Check { trees, mut report, .. } = check;
        (report.trees, report.chunks, report.bytes) = (trees.trees, trees.chunks, trees.bytes);
        Ok(report)
    }
}

struct Check<'a> {
    house: &'a Storehouse,
    trees: Trees<'a>,
    report: HouseReport,
    progress: &'a mut dyn FnMut(u64),
}

impl Check<'_> {
    /// Gives every fact below `prefix` to `each`, the prefix taken off its key.
    fn scan(
        &mut self,
        prefix: &[u8],
        mut each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let store = self.house.store();
        store.each_fact(prefix, |key, fact| {
            each(self, key, &fact.value)?;
            let report = &self.report;
            (self.progress)(report.paths + report.nars + report.files);
            Ok(())
        })
    }

    fn found(&mut self, cache: &Cache, subject: Subject, flaw: Flaw) {
        let destroyed = cache.destroyed().is_some();
        let cache = cache.name().clone();
        self.report.problems.push(HouseProblem { cache, destroyed, subject, flaw });
    }

    fn paths(&mut self, cache: &Cache) -> Result<(), StoreError> {
        self.scan(&path_prefix(cache.number()), |check, key, value| {
            check.report.paths += 1;
            for (path, flaw) in check.path(cache, key, value)? {
                check.found(cache, Subject::Path(path), flaw);
            }
            Ok(())
        })
    }

    fn path(
        &mut self,
        cache: &Cache,
        key: &[u8],
        value: &[u8],
    ) -> Result<Vec<(String, Flaw)>, StoreError> {
        let Ok(hash) = <[u8; 20]>::try_from(key) else {
            return Ok(vec![(key.escape_ascii().to_string(), Flaw::Key)]);
        };
        let hash = StorePathHash::from(hash);
        let record: PathRecord = match decode(&hash.to_string(), value) {
            Ok(record) => record,
            Err(error) => return Ok(vec![(hash.to_string(), Flaw::Record(error))]),
        };
        let Ok(path) = StorePath::new(hash, &record.name) else {
            return Ok(vec![(hash.to_string(), Flaw::Name(record.name))]);
        };
        let path = path.to_absolute(cache.store_dir());
        let mut flaws = Vec::new();
        let bad = record.references.iter().find(|name| name.parse::<StorePath>().is_err());
        flaws.extend(bad.map(|name| Flaw::Reference(name.clone())));
        match sha256(&path, &record.nar_hash) {
            Ok(nar) if self.house.store().fact(&nar_key(cache.number(), nar))?.is_none() => {
                flaws.push(Flaw::NoNar);
            }
            Ok(_) => {}
            Err(error) => flaws.push(Flaw::Record(error)),
        }
        match digest(&path, &record.tree) {
            Ok(tree) => flaws.extend(self.tree(&tree, Some(&record.root))?),
            Err(error) => flaws.push(Flaw::Record(error)),
        }
        Ok(flaws.into_iter().map(|flaw| (path.clone(), flaw)).collect())
    }

    fn nars(&mut self, cache: &Cache) -> Result<(), StoreError> {
        self.scan(&nar_prefix(cache.number()), |check, key, value| {
            check.report.nars += 1;
            let hash = <[u8; 32]>::try_from(key).map(Sha256::from);
            let Ok(hash) = hash else {
                let name = key.escape_ascii().to_string();
                check.found(cache, Subject::Nar(name), Flaw::Key);
                return Ok(());
            };
            let name = hash.to_nix32();
            let flaw = match decode::<NarRecord>(&name, value)
                .and_then(|record| Ok((digest(&name, &record.tree)?, record.root)))
            {
                Ok((tree, root)) => check.tree(&tree, Some(&root))?,
                Err(error) => Some(Flaw::Record(error)),
            };
            if let Some(flaw) = flaw {
                check.found(cache, Subject::Nar(name), flaw);
            }
            Ok(())
        })
    }

    fn files(&mut self, cache: &Cache) -> Result<(), StoreError> {
        self.scan(&file_prefix(cache.number()), |check, key, value| {
            check.report.files += 1;
            let name = String::from_utf8_lossy(key).into_owned();
            let flaw = match decode::<FileRecord>(&name, value)
                .and_then(|record| digest(&name, &record.tree))
            {
                Ok(tree) => check.tree(&tree, None)?,
                Err(error) => Some(Flaw::Record(error)),
            };
            if let Some(flaw) = flaw {
                check.found(cache, Subject::File(name), flaw);
            }
            Ok(())
        })
    }

    /// Checks a tree, and that its root is the encoded node that a record gives.
    fn tree(&mut self, tree: &Digest, root: Option<&[u8]>) -> Result<Option<Flaw>, StoreError> {
        Ok(match root {
            Some(root) => self.trees.check_root(tree, root)?,
            None => self.trees.check(tree)?.err().map(Flaw::Tree),
        })
    }
}
