//! Deleting paths because somebody wants them gone: planned first, then done.
//!
//! A path goes only with all paths of the cache that refer to it, and before what it refers to, so that
//! however a deletion ends, no path that stays is without what it needs. That holds for what the cache
//! held when the plan was made: a path that is published for the first time while the deletion runs is
//! not looked at. A path that was pushed again meanwhile stays, and so does what it refers to.

mod order;

use std::collections::{HashMap, HashSet};

use nix_compat::store_path::{StorePath, StorePathHash};

use super::paths::store_path;
use super::{Cache, CacheError, References};
use order::{Spared, spared, waves};

/// Paths that a refusal names, at most.
const MAX_NAMED: usize = 10;

/// What is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// The paths.
    pub paths: Vec<StorePathHash>,
    /// Whether all that refers to them, directly or not, goes as well.
    pub referrers: bool,
    /// Whether all that they refer to, directly or not, goes as well, where nothing that stays
    /// refers to it.
    pub closure: bool,
}

/// Why nothing is deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeletionError {
    /// The cache could not be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache does not have the path.
    #[error("cache {cache} has no path {path}")]
    NotHere {
        /// The cache.
        cache: String,
        /// The hash part of the path.
        path: StorePathHash,
    },
    /// Paths that stay refer to it.
    #[error("{path} is needed by {}: delete what refers to it as well, or first", named(.by, *.more))]
    Referred {
        /// The path's base name.
        path: String,
        /// Base names of some of those that refer to it themselves.
        by: Vec<String>,
        /// How many more there are.
        more: usize,
    },
    /// A pin keeps it.
    #[error("{path} is kept by the pin {pin}: remove the pin first")]
    Pinned {
        /// The path's base name.
        path: String,
        /// The pin's name.
        pin: String,
    },
}

fn named(by: &[String], more: usize) -> String {
    let names = by.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

/// A deletion that has been thought through.
pub struct DeletionPlan {
    /// Up to which change of pins it was thought through.
    pins: u64,
    references: References,
    /// What goes, in waves: what refers to a path goes in an earlier one, or in the same where paths
    /// refer to each other.
    waves: Vec<Vec<DoomedPath>>,
    kept: Vec<KeptPath>,
}

/// A path that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoomedPath {
    /// The path.
    pub path: StorePath,
    /// Length of its NAR.
    pub nar_size: u64,
    /// Sequence number of its fact.
    sequence: u64,
}

/// A path that was to go and stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPath {
    /// Its base name.
    pub path: String,
    /// Why.
    pub why: KeptWhy,
}

/// Why a path stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptWhy {
    /// The path of this base name stays, and refers to it.
    Referred(String),
    /// The pin of that name keeps it.
    Pinned(String),
    /// It, or one of a circle of references that it is in or below, was pushed again or deleted by
    /// somebody else, or pins were changed, meanwhile.
    Changed,
}

/// What a deletion came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// What is gone.
    pub paths: Vec<DoomedPath>,
    /// What stays, though it was to go.
    pub kept: Vec<KeptPath>,
}

impl DeletionPlan {
    /// What goes, in the order in which it does.
    pub fn paths(&self) -> impl Iterator<Item = &DoomedPath> {
        self.waves.iter().flatten()
    }

    /// What stays, though it was to go.
    pub fn kept(&self) -> &[KeptPath] {
        &self.kept
    }
}

impl Cache {
    /// Thinks a deletion through; nothing is changed. Reads what the cache says of every path.
    pub fn plan_deletion(&self, wanted: &Deletion) -> Result<DeletionPlan, DeletionError> {
        let references = self.references()?;
        if let Some(path) = wanted.paths.iter().find(|path| !references.has(**path)) {
            let cache = self.name.to_string();
            return Err(DeletionError::NotHere { cache, path: *path });
        }
        let pins = self.last_pinned()?;
        let pinned = self.pinned()?;
        let first: HashSet<StorePathHash> = match wanted.referrers {
            true => references.with_referrers(&wanted.paths).into_iter().collect(),
            false => wanted.paths.iter().copied().collect(),
        };
        if let Some((path, pin)) = first.iter().find_map(|path| Some((path, pinned.get(path)?))) {
            let path = self.name_of(*path)?;
            return Err(DeletionError::Pinned { path, pin: pin.clone() });
        }
        let mut doomed = first.clone();
        let mut kept = Vec::new();
        if wanted.closure {
            let of: Vec<_> = first.iter().copied().collect();
            doomed.extend(references.closure(&of));
            for (path, why) in spared(&references, &first, &doomed, &pinned) {
                doomed.remove(&path);
                let why = match why {
                    Spared::Pinned(pin) => KeptWhy::Pinned(pin),
                    Spared::Referred(by) => KeptWhy::Referred(self.name_of(by)?),
                };
                kept.push(KeptPath { path: self.name_of(path)?, why });
            }
            kept.sort_by(|a, b| a.path.cmp(&b.path));
        }
        for path in &first {
            self.check_unneeded(*path, &references, &doomed)?;
        }
        let mut plan = DeletionPlan { pins, waves: Vec::new(), kept, references };
        for wave in waves(&plan.references, &doomed) {
            let paths = wave.into_iter().map(|hash| self.doomed(hash, &plan.references));
            // What somebody else has deleted meanwhile need not go.
            plan.waves.push(paths.filter_map(Result::transpose).collect::<Result<_, _>>()?);
        }
        Ok(plan)
    }

    /// Deletes what was planned. When this returns it is durable, and nobody is told of the paths
    /// any more. Blocks.
    pub fn delete(&self, plan: DeletionPlan) -> Result<Deleted, CacheError> {
        let DeletionPlan { pins, references, waves, kept } = plan;
        let mut deleted = Deleted { paths: Vec::new(), kept };
        // What has to stay, and the path that needs it.
        let mut needed: HashMap<StorePathHash, String> = HashMap::new();
        for wave in waves {
            if references.refer_to_each_other(wave.iter().map(|doomed| doomed.path.hash())) {
                self.delete_together(wave, &needed, pins, &mut deleted)?;
                continue;
            }
            let (mut goes, mut stays) = (Vec::new(), Vec::new());
            for doomed in wave {
                match needed.get(&doomed.path.hash()) {
                    Some(by) => stays.push((doomed, KeptWhy::Referred(by.clone()))),
                    None => goes.push(doomed),
                }
            }
            let facts: Vec<_> =
                goes.iter().map(|doomed| (doomed.path.hash(), doomed.sequence)).collect();
            for (doomed, removed) in goes.into_iter().zip(self.remove_paths(&facts, pins)?) {
                match removed {
                    true => deleted.paths.push(doomed),
                    false => stays.push((doomed, KeptWhy::Changed)),
                }
            }
            for (DoomedPath { path, .. }, why) in stays {
                for other in references.of(path.hash()) {
                    needed.entry(other).or_insert_with(|| path.to_string());
                }
                deleted.kept.push(KeptPath { path: path.to_string(), why });
            }
        }
        Ok(deleted)
    }

    /// Deletes paths that refer to each other, and what only these refer to. If any of them has to stay,
    /// they all do: what it refers to is among them.
    fn delete_together(
        &self,
        wave: Vec<DoomedPath>,
        needed: &HashMap<StorePathHash, String>,
        pins: u64,
        deleted: &mut Deleted,
    ) -> Result<(), CacheError> {
        let why = match wave.iter().find_map(|doomed| needed.get(&doomed.path.hash())) {
            Some(by) => KeptWhy::Referred(by.clone()),
            None => {
                let facts: Vec<_> =
                    wave.iter().map(|doomed| (doomed.path.hash(), doomed.sequence)).collect();
                if self.remove_together(&facts, pins)? {
                    deleted.paths.extend(wave);
                    return Ok(());
                }
                KeptWhy::Changed
            }
        };
        let kept = wave.iter().map(|doomed| doomed.path.to_string());
        deleted.kept.extend(kept.map(|path| KeptPath { path, why: why.clone() }));
        Ok(())
    }

    /// The paths that pins name, and with sources what they were built from, each with the name of a
    /// pin, which keeps all that it refers to as well.
    fn pinned(&self) -> Result<HashMap<StorePathHash, String>, CacheError> {
        let (now, mut pinned, mut vault) = (self.store.now(), HashMap::new(), None);
        for pin in self.pins()? {
            for revision in pin.revisions.iter().filter(|revision| revision.is_live(now)) {
                pinned.insert(revision.path.hash(), pin.name.to_string());
                if revision.with_sources {
                    vault = Some(pin.name.to_string());
                }
            }
        }
        if let Some(vault) = vault {
            for root in self.pinned_roots(now)? {
                pinned.entry(root).or_insert_with(|| vault.clone());
            }
        }
        Ok(pinned)
    }

    /// Fails when a path that stays refers to this one.
    fn check_unneeded(
        &self,
        path: StorePathHash,
        references: &References,
        doomed: &HashSet<StorePathHash>,
    ) -> Result<(), DeletionError> {
        let mut by = references.referrers_of(path);
        by.retain(|referrer| !doomed.contains(referrer));
        if by.is_empty() {
            return Ok(());
        }
        by.sort();
        let more = by.len().saturating_sub(MAX_NAMED);
        let by = by.into_iter().take(MAX_NAMED).map(|hash| self.name_of(hash));
        let by = by.collect::<Result<_, _>>()?;
        Err(DeletionError::Referred { path: self.name_of(path)?, by, more })
    }

    fn doomed(
        &self,
        hash: StorePathHash,
        references: &References,
    ) -> Result<Option<DoomedPath>, CacheError> {
        let Some(sequence) = references.sequence(hash) else { return Ok(None) };
        let Some((_, record)) = self.path_record(hash)? else { return Ok(None) };
        let path = store_path(hash, &record)?;
        Ok(Some(DoomedPath { path, nar_size: record.nar_size, sequence }))
    }

    /// The base name of a path, or its hash part when it has just gone.
    fn name_of(&self, hash: StorePathHash) -> Result<String, CacheError> {
        let record = self.path_record(hash)?;
        Ok(record.map_or(hash.to_string(), |(_, record)| format!("{hash}-{}", record.name)))
    }
}
