//! Which paths a cache no longer keeps.
//!
//! What the rules are is [`Rules`]' matter; how they are applied, [`decide`]'s. A plan only says what
//! would go. Whoever carries it out goes through [`CachePlan::review`], which leaves out what was used
//! or pushed again since, and deletes with the sequence number that the plan names.

mod components;
mod decide;
mod graph;
mod review;

use std::collections::HashSet;
use std::sync::Arc;

use nix_compat::store_path::StorePathHash;

pub use decide::Total;
pub(crate) use graph::{Facts, Gathering};
pub use review::Review;

use crate::cache::Cache;
use crate::storehouse::{Storehouse, StorehouseError};

/// For how long and in what space paths are kept. What is `None` does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Seconds for which a path is kept after its last use.
    pub retention: Option<u64>,
    /// Seconds for which a path is kept after its upload.
    pub max_age: Option<u64>,
    /// What the paths of a cache may take together, in bytes of their NARs as zstd.
    pub max_size: Option<u64>,
}

/// The rules for caches whose owners have not decided.
pub type Defaults = Rules;

impl Rules {
    /// The rules of a cache: its own, and these where it has none.
    pub fn of(&self, cache: &Cache) -> Self {
        Self {
            retention: cache.retention().or(self.retention),
            max_age: cache.max_age().or(self.max_age),
            max_size: cache.max_size().or(self.max_size),
        }
    }

    /// Whether the time is over of something that was uploaded at a time and never used since.
    pub(crate) fn outlived(&self, uploaded: u64, now: u64) -> bool {
        let spans = [self.retention, self.max_age];
        spans.into_iter().flatten().any(|span| is_over(uploaded, span, now))
    }

    /// Whether nothing ever goes.
    pub fn keep_all(&self) -> bool {
        *self == Self::default()
    }
}

/// What a plan is made by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The rules where a cache has none.
    pub defaults: &'a Defaults,
    /// The time at which it is to hold, in seconds since 1970.
    pub now: u64,
    /// What was used or uploaded since then goes neither for its age nor for space: somebody may be
    /// building on it, and pushing what refers to it.
    pub fresh: u64,
}

/// Whether a span that begins at a time has ended.
fn is_over(time: u64, span: u64, now: u64) -> bool {
    time.saturating_add(span) < now
}

/// Why a path goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Neither it nor anything that refers to it was used for too long.
    Unused,
    /// It and all that refers to it were uploaded too long ago.
    Old,
    /// The cache takes too much space, and others were used later.
    Space,
}

/// A path that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Hash part.
    pub hash: StorePathHash,
    /// Name part.
    pub name: String,
    /// Sequence number of its record. One that is pushed again has another.
    pub sequence: u64,
    /// Why it goes.
    pub why: Why,
    /// Length of its NAR as zstd.
    pub file_size: u64,
    /// Length of its NAR.
    pub nar_size: u64,
    /// When it or anything that refers to it was last used, in seconds since 1970.
    pub last_used: u64,
    /// When it was uploaded, in seconds since 1970.
    pub uploaded: u64,
}

/// What is to go from a cache.
pub struct CachePlan {
    /// The cache.
    pub cache: Arc<Cache>,
    /// When the plan was begun, by the clock. What was used since is to stay.
    pub planned_at: u64,
    /// The rules that it follows.
    pub rules: Rules,
    /// What goes, in an order in which what refers comes before what it refers to.
    pub expired: Vec<Expired>,
    /// What stays, pinned paths included.
    pub kept: Total,
    /// What stays because it, or something that refers to it, is pinned.
    pub pinned: Total,
}

impl Storehouse {
    /// Plans what is to go from a cache; `None` for one that has no rules or is destroyed. The roots are
    /// to stay with all that they refer to; those that the cache does not have mean nothing.
    ///
    /// Other servers on the same store write what was read there once a minute. Blocks.
    pub fn plan_retention(
        &self,
        cache: &Arc<Cache>,
        terms: &Terms<'_>,
        roots: &[StorePathHash],
    ) -> Result<Option<CachePlan>, StorehouseError> {
        let rules = terms.defaults.of(cache);
        if cache.destroyed().is_some() || rules.keep_all() {
            return Ok(None);
        }
        let planned_at = self.store().now();
        self.flush_accesses()?;
        let paths = cache.gather_paths(self.used_since()?)?;
        let mut plan = CachePlan {
            planned_at,
            rules,
            expired: Vec::new(),
            kept: Total::default(),
            pinned: Total::default(),
            cache: cache.clone(),
        };
        plan.fill(paths, roots, terms)?;
        Ok(Some(plan))
    }
}

impl CachePlan {
    fn fill(
        &mut self,
        paths: Gathering,
        roots: &[StorePathHash],
        terms: &Terms<'_>,
    ) -> Result<(), StorehouseError> {
        let (graph, pinned) = paths.finish(roots);
        let decision = decide::decide(&graph, &pinned, &self.rules, terms.now, terms.fresh);
        (self.kept, self.pinned) = (decision.kept, decision.pinned);
        // What was pushed again meanwhile stays, and what it refers to.
        let mut spared = HashSet::new();
        for (number, why) in decision.removed {
            let (hash, facts) = (graph.hash(number), graph.facts(number));
            let Some((sequence, record)) = self.cache.path_record(hash)? else { continue };
            if sequence != facts.sequence || spared.contains(&hash) {
                spared.extend(record.reference_hashes());
                self.kept.add(facts.size);
                continue;
            }
            self.expired.push(Expired {
                hash,
                sequence,
                why,
                file_size: record.file_size,
                nar_size: record.nar_size,
                last_used: decision.used[number as usize],
                uploaded: record.uploaded,
                name: record.name,
            });
        }
        Ok(())
    }

    /// What is still to go, looked at anew path by path.
    pub fn review(&self) -> Review<'_> {
        Review::new(self)
    }
}
