//! Deleting paths: see docs/paths.md.

use narbridge::Cache;
use narbridge::cache::{Deletion, DeletionError, PinRequest};

use super::*;
use crate::tenant::Numbers;

/// What a deletion has to come to, unless it has to be refused.
struct Foreseen {
    goes: Numbers,
    stays: Numbers,
}

/// Why it has to be refused; there may be more than one reason.
#[derive(Debug, Default)]
struct Refusal {
    absent: bool,
    pinned: bool,
    referred: bool,
}

impl World {
    fn foresee(
        &self,
        tenant: usize,
        wanted: &Numbers,
        referrers: bool,
        closure: bool,
    ) -> Result<Foreseen, Refusal> {
        let tenant = &self.tenants[tenant];
        let absent = wanted.iter().any(|path| !tenant.paths.contains_key(path));
        let first = match referrers {
            true => tenant.with_referrers(wanted.iter().copied()),
            false => wanted.clone(),
        };
        let roots = tenant.roots(self.now());
        let pinned = first.iter().any(|path| roots.contains(path));
        let mut goes = first.clone();
        if closure {
            goes.extend(tenant.closure(first.iter().copied()));
        }
        let mut stays = Numbers::new();
        // Until nothing that stays refers to something that goes, but for what has to go.
        while let Some(path) = goes.iter().copied().find(|path| {
            let needed = || tenant.referrers(*path).any(|by| !goes.contains(&by));
            !first.contains(path) && (roots.contains(path) || needed())
        }) {
            goes.remove(&path);
            stays.insert(path);
        }
        let mut needed = first.iter().flat_map(|path| tenant.referrers(*path));
        let referred = needed.any(|by| !goes.contains(&by));
        match absent || pinned || referred {
            true => Err(Refusal { absent, pinned, referred }),
            false => Ok(Foreseen { goes, stays }),
        }
    }

    pub(super) fn delete(&mut self, tenant: usize, a: u16, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let there = || self.tenants[tenant].paths.keys().copied();
        let mut wanted: Numbers = pick(there(), a).into_iter().collect();
        if b.is_multiple_of(3) {
            wanted.extend(pick(there(), a / 3 + b));
        }
        if b.is_multiple_of(11) || wanted.is_empty() {
            wanted.insert(usize::from(a) % PATHS);
        }
        let (referrers, closure) = ((b / 11).is_multiple_of(2), !(b / 22).is_multiple_of(3));
        let foreseen = self.foresee(tenant, &wanted, referrers, closure);
        let paths = wanted.iter().map(|path| self.paths.hash(*path)).collect();
        let plan = cache.plan_deletion(&Deletion { paths, referrers, closure });
        let (plan, Foreseen { mut goes, stays }) = match (plan, foreseen) {
            (Ok(plan), Ok(foreseen)) => (plan, foreseen),
            (Err(DeletionError::NotHere { .. }), Err(Refusal { absent: true, .. }))
            | (Err(DeletionError::Pinned { .. }), Err(Refusal { pinned: true, .. }))
            | (Err(DeletionError::Referred { .. }), Err(Refusal { referred: true, .. })) => {
                self.tally.refused += 1;
                return Ok(());
            }
            (Ok(_), Err(why)) => return Err(format!("{wanted:?} can be deleted, though {why:?}")),
            (Err(error), _) => return Err(format!("deleting {wanted:?}: {error}")),
        };
        let planned = plan.paths().map(|doomed| doomed.path.hash());
        let planned: Vec<_> = planned.map(|hash| self.paths.number(hash)).collect();
        let planned: Option<Numbers> = planned.into_iter().collect();
        same("what a deletion is to take", planned.as_ref(), Some(&goes))?;
        let kept: Numbers = plan.kept().iter().filter_map(|kept| self.named(&kept.path)).collect();
        same("what a deletion is to leave", &kept, &stays)?;
        match b % 8 {
            0 => return Ok(()),
            1 => {
                if let Some(again) = pick(goes.iter().copied(), a / 5) {
                    let (mut needed, tangled) = self.needed(tenant, &goes, again);
                    self.publish_as_it_is(tenant, again)?;
                    if !needed.is_disjoint(&tangled) {
                        needed.extend(tangled);
                    }
                    goes.retain(|path| !needed.contains(path));
                }
            }
            2 if self.touch_pins(&cache, tenant)? => goes.clear(),
            _ => {}
        }
        let deleted = cache.delete(plan).map_err(failed("deleting paths"))?;
        let order = deleted.paths.iter().map(|doomed| doomed.path.hash());
        let order: Vec<usize> = order.filter_map(|hash| self.paths.number(hash)).collect();
        same("what was deleted", &order.iter().copied().collect(), &goes)?;
        for (at, path) in order.iter().enumerate() {
            let mut later = order[at + 1..].iter();
            if let Some(by) = later.find(|by| self.goes_before(tenant, &goes, **by, *path)) {
                return Err(format!("p{path} went before p{by}, which refers to it"));
            }
        }
        self.tally.deleted += goes.len() as u64;
        self.tenants[tenant].paths.retain(|path, _| !goes.contains(path));
        goes.iter().try_for_each(|path| self.verify_path(tenant, *path))
    }

    /// The number of the path of that base name.
    fn named(&self, base_name: &str) -> Option<usize> {
        (0..PATHS).find(|number| self.paths.path(*number).to_string() == base_name)
    }

    /// What a path needs, and what is in a circle or below one, so that it goes all at once or stays.
    fn needed(&self, tenant: usize, goes: &Numbers, path: usize) -> (Numbers, Numbers) {
        let tenant = &self.tenants[tenant];
        let circles = goes.iter().copied().filter(|path| tenant.circle(*path).len() > 1);
        (tenant.closure([path]), tenant.closure(circles).intersection(goes).copied().collect())
    }

    /// Whether a path refers to another, so that it has to go before.
    fn goes_before(&self, tenant: usize, goes: &Numbers, path: usize, to: usize) -> bool {
        let refers = self.tenants[tenant].closure([path]).contains(&to);
        refers && !self.needed(tenant, goes, path).1.contains(&to)
    }

    /// A path is pushed again as it is.
    pub(super) fn publish_as_it_is(&mut self, tenant: usize, path: usize) -> Result<(), Fault> {
        let stored = &self.tenants[tenant].paths[&path];
        let otherwise = (stored.nar, stored.references.clone()) != self.paths.built(path, false);
        // What decides on the way it comes, and on how it was built: see `publish`.
        self.publish(tenant, path, if otherwise { 2 } else { 16 + 2 })
    }

    /// Somebody pins something, if there is anything, and takes the pin away.
    fn touch_pins(&self, cache: &Cache, tenant: usize) -> Result<bool, Fault> {
        let Some(path) = self.tenants[tenant].paths.keys().next() else { return Ok(false) };
        let request = PinRequest {
            path: self.paths.path(*path).clone(),
            revisions: None,
            until: None,
            with_sources: false,
            created_by: String::new(),
        };
        let name = "touched".parse().map_err(failed("naming a pin"))?;
        cache.add_pin(&name, &request).map_err(failed("pinning a path"))?;
        cache.remove_pin(&name).map_err(failed("removing a pin"))
    }
}
