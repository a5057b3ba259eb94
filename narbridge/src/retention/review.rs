//! A plan, looked at again while it is carried out.

use std::collections::HashSet;

use nix_compat::store_path::StorePathHash;

use super::{CachePlan, Expired};
use crate::cache::CacheError;

/// The paths of a plan that are still to go. What was used or pushed since the plan was made is left
/// out, and with it all that it refers to: whoever was told of a path will ask for its closure next.
///
/// What is yielded should be deleted before much more is asked for, with its sequence number.
pub struct Review<'a> {
    plan: &'a CachePlan,
    rest: std::slice::Iter<'a, Expired>,
    /// What something refers to that stays after all.
    needed: HashSet<StorePathHash>,
    spared: u64,
}

impl<'a> Review<'a> {
    pub(super) fn new(plan: &'a CachePlan) -> Self {
        Self { plan, rest: plan.expired.iter(), needed: HashSet::new(), spared: 0 }
    }

    /// How many paths of the plan were left out so far.
    pub fn spared(&self) -> u64 {
        self.spared
    }

    /// A path stays after all, and all that it refers to: to be called when one that was yielded has
    /// changed before it was deleted. Blocks.
    pub fn spare(&mut self, hash: StorePathHash) -> Result<(), CacheError> {
        self.spared += 1;
        if let Some((_, record)) = self.plan.cache.path_record(hash)? {
            self.needed.extend(record.reference_hashes());
        }
        Ok(())
    }

    /// Whether one that was yielded is still to go. Blocks.
    pub fn still_goes(&mut self, path: &Expired) -> Result<bool, CacheError> {
        let stays = self.stays(path)?;
        if stays {
            self.spare(path.hash)?;
        }
        Ok(!stays)
    }

    fn stays(&self, path: &Expired) -> Result<bool, CacheError> {
        let cache = &self.plan.cache;
        Ok(self.needed.contains(&path.hash)
            || cache.used_since_plan(path.hash, self.plan.planned_at)?
            || cache.path_record(path.hash)?.is_none_or(|(at, _)| at != path.sequence))
    }
}

impl<'a> Iterator for Review<'a> {
    type Item = Result<&'a Expired, CacheError>;

    /// Blocks.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let path = self.rest.next()?;
            match self.still_goes(path) {
                Ok(true) => return Some(Ok(path)),
                Ok(false) => continue,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
