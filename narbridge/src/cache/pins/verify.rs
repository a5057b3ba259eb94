//! Whether what a pin keeps is all there.
//!
//! A path that the cache lacks is told from one whose contents are not whole. The first need not be
//! wrong: what an upstream cache has signed is not pushed, and clients get it from there. Which paths
//! these are only the upstream knows, so they are told, each with who needs it.

use std::sync::Arc;

use castore::fsck::Damage;
use nix_compat::store_path::StorePath;

use super::reach::{Look, Met, Reach};
use super::{PinName, PinRevision};
use crate::cache::{Cache, CacheError};
use crate::fsck::{Flaw, TreeFlaw, TreeProblem, Trees};
use crate::records::digest;

/// Paths of either kind that a report names; those beyond are only counted. Enough for every path of
/// a system.
const MAX_NAMED: usize = 10_000;

/// Why a path has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is pinned.
    Pinned,
    /// A path refers to it.
    Reference {
        /// Which one.
        of: StorePath,
    },
    /// It is the derivation of a path that is pinned with sources.
    Derivation {
        /// Which one.
        of: StorePath,
    },
    /// A derivation fetches it.
    Source {
        /// Which one.
        of: StorePath,
    },
    /// The path itself is there and pinned with sources, and nobody said what derivation made it.
    UnknownDerivation,
}

impl Need {
    /// Whether an upstream cache may have it instead.
    fn may_be_upstream(&self) -> bool {
        matches!(self, Self::Reference { .. } | Self::Source { .. })
    }
}

/// A path that the cache lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPath {
    /// The path.
    pub path: StorePath,
    /// What for.
    pub need: Need,
}

/// A path that the cache shows and cannot serve.
#[derive(Debug)]
pub struct DamagedPath {
    /// The path.
    pub path: StorePath,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What became of looking through all that a pin keeps.
#[derive(Debug, Default)]
pub struct PinReport {
    /// Revisions that keep something, whose paths were looked at.
    pub revisions: usize,
    /// Paths that the cache has and that were looked at.
    pub paths: u64,
    /// Bytes of their NARs.
    pub bytes: u64,
    /// What is missing.
    pub missing: Vec<MissingPath>,
    /// What is damaged.
    pub damaged: Vec<DamagedPath>,
    /// How many more are missing or damaged than are named.
    pub more: u64,
    /// Whether everything is there.
    pub whole: bool,
    /// Whether everything is there if upstream caches have what they may have: what is missing is
    /// only referred to, or fetched.
    pub whole_with_upstream: bool,
}

impl PinReport {
    fn miss(&mut self, path: &StorePath, need: &Need) {
        self.whole = false;
        self.whole_with_upstream &= need.may_be_upstream();
        if self.missing.len() < MAX_NAMED {
            self.missing.push(MissingPath { path: path.clone(), need: need.clone() });
        } else {
            self.more += 1;
        }
    }

    fn damage(&mut self, path: &StorePath, flaw: Flaw) {
        (self.whole, self.whole_with_upstream) = (false, false);
        if self.damaged.len() < MAX_NAMED {
            self.damaged.push(DamagedPath { path: path.clone(), flaw });
        } else {
            self.more += 1;
        }
    }
}

impl Cache {
    /// Looks through all that a pin keeps: that the cache has it, and that the store has every tree,
    /// chunk list and chunk of it. The bytes of chunks are not read (that is fsck's). `None` when
    /// there is no such pin. Blocks.
    pub fn verify_pin(&self, name: &PinName) -> Result<Option<PinReport>, CacheError> {
        let Some(pin) = self.pin(name)? else { return Ok(None) };
        let now = self.store.now();
        let live = pin.revisions.iter().filter(|revision| revision.is_live(now));
        let (with, without): (Vec<&PinRevision>, Vec<_>) = live.partition(|one| one.with_sources);
        let revisions = with.len() + without.len();
        let is_pinned = |path: &StorePath| pin.revisions.iter().any(|one| one.path == *path);
        let mut report =
            PinReport { revisions, whole: true, whole_with_upstream: true, ..Default::default() };
        let damage = Damage::default();
        let mut trees = Trees::new(&self.store, &damage);
        let mut met = |met: Met<'_>| {
            let (path, record) = match met {
                Met::Here(path, record) => (path, record),
                Met::Lacking(path, need) => {
                    // It may have been come upon from another revision.
                    let pinned = need.may_be_upstream() && is_pinned(path);
                    report.miss(path, if pinned { &Need::Pinned } else { need });
                    return Ok(Look::Past);
                }
                Met::Unreadable(path, error) => {
                    let problem = TreeProblem { first: TreeFlaw::Store(error), more: 0 };
                    report.damage(path, Flaw::Tree(Arc::new(problem)));
                    return Ok(Look::Past);
                }
            };
            report.paths += 1;
            report.bytes += record.nar_size;
            let bad = record.references.iter().find(|name| name.parse::<StorePath>().is_err());
            if let Some(bad) = bad {
                report.damage(path, Flaw::Reference(bad.clone()));
            }
            let tree = match digest(&record.name, &record.tree) {
                Ok(tree) => tree,
                Err(error) => {
                    report.damage(path, Flaw::Record(error));
                    return Ok(Look::Past);
                }
            };
            match trees.check_root(&tree, &record.root)? {
                None => Ok(Look::Inside),
                Some(flaw) => {
                    report.damage(path, flaw);
                    Ok(Look::Past)
                }
            }
        };
        let mut reach = Reach::new(self);
        reach.walk(with.into_iter(), true, &mut met)?;
        reach.walk(without.into_iter(), false, &mut met)?;
        Ok(Some(report))
    }
}
