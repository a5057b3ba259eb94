//! Which packs are worth writing anew: those with the most in them that nobody needs.

use std::collections::{HashMap, HashSet};

use super::Live;
use crate::pack::{HEADER_LEN, PackId, ROW_LEN};
use crate::packs::Standing;
use crate::store::{Store, StoreError};

/// Packs that were sealed early, as each commit does where packs are objects, are small. So many of them
/// become one.
const SMALL_TOGETHER: usize = 8;
/// A pack is small below this share of the size at which packs are sealed.
const SMALL: u64 = 4;

/// How much of the packs is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackUse {
    /// Packs.
    pub packs: u64,
    /// Bytes of their records, with what the records take in footers.
    pub bytes: u64,
    /// So many of them are needed.
    pub needed: u64,
}

impl PackUse {
    /// Bytes that nothing needs.
    pub fn unneeded(&self) -> u64 {
        self.bytes - self.needed
    }

    fn add(&mut self, bytes: u64, needed: bool) {
        self.bytes += bytes;
        self.needed += if needed { bytes } else { 0 };
    }

    fn join(&mut self, other: &Self) {
        self.packs += other.packs;
        self.bytes += other.bytes;
        self.needed += other.needed;
    }
}

/// What is to be condemned, and how things stand.
#[derive(Clone, Debug, Default)]
pub struct PackPlan {
    /// All sealed packs that stay so far.
    pub all: PackUse,
    /// Those that are to be condemned.
    pub condemn: PackUse,
    /// Those that were condemned before.
    pub condemned: PackUse,
    /// Those that cannot be, because they hold what was sent and is not published yet.
    pub leased: PackUse,
    pub(super) chosen: Vec<PackId>,
}

impl Store {
    /// Chooses the packs to be written anew, so that at most `max_unneeded` (a share of what is kept) is
    /// left that nothing needs. Only packs that were sealed before `live` was begun are chosen.
    pub fn plan_packs(&self, live: &Live, max_unneeded: f64) -> Result<PackPlan, StoreError> {
        let leased = self.leased()?.packs;
        let mut uses: HashMap<u32, PackUse> = HashMap::new();
        self.locations.each_row(&mut |digest, location| {
            let bytes = (HEADER_LEN + location.stored as usize + ROW_LEN) as u64;
            let needed =
                live.may_need(digest, location.kind) && !self.locations.is_damaged(location);
            uses.entry(location.pack).or_default().add(bytes, needed);
        })?;
        let mut plan = PackPlan::default();
        let mut candidates = Vec::new();
        for (slot, mut used) in uses {
            used.packs = 1;
            let Ok(id) = self.packs.id_of(slot) else { continue };
            match self.packs.standing(slot) {
                Standing::Gone => continue,
                Standing::Condemned => {
                    plan.condemned.join(&used);
                    continue;
                }
                Standing::Stays => plan.all.join(&used),
            }
            if leased.contains(&id) {
                plan.leased.join(&used);
            } else if live.packs.contains(&id) {
                candidates.push((id, used));
            }
        }
        // The emptiest first: they give most for what has to be copied.
        let share = |used: &PackUse| used.needed as f64 / used.bytes.max(1) as f64;
        candidates.sort_by(|(a, first), (b, second)| {
            share(first).total_cmp(&share(second)).then(a.cmp(b))
        });
        let mut left = plan.all.unneeded();
        let enough = (plan.all.needed as f64 * max_unneeded) as u64;
        let mut chosen = HashSet::new();
        for (id, used) in &candidates {
            // What is not needed at all costs nothing to remove.
            if used.needed > 0 && (left <= enough || used.unneeded() == 0) {
                break;
            }
            left -= used.unneeded();
            plan.condemn.join(used);
            chosen.insert(*id);
        }
        let small = self.log.target() / SMALL;
        let small: Vec<_> = candidates
            .iter()
            .filter(|(id, used)| used.bytes < small && !chosen.contains(id))
            .collect();
        if small.len() >= SMALL_TOGETHER {
            for (id, used) in small {
                plan.condemn.join(used);
                chosen.insert(*id);
            }
        }
        plan.chosen = chosen.into_iter().collect();
        plan.chosen.sort_unstable();
        Ok(plan)
    }

    /// Seals the pack that grows, so that what nobody needs of it can be found out.
    pub fn seal_open(&self) -> Result<(), StoreError> {
        Ok(self.log.seal_appended()?)
    }

    /// Does what was planned.
    pub fn condemn_planned(&self, plan: &PackPlan) -> Result<(), StoreError> {
        self.condemn(&plan.chosen)
    }
}
