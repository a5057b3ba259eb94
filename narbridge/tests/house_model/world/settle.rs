//! What a collection has to come to, and whether it has.

use granary_api::gc::CacheReport;
use narbridge::gc::{GcOptions, GcReport};

use super::*;
use crate::tenant::{Burial, Fate, Numbers};

/// What is known before a collection.
pub(super) struct Foresight {
    fates: Vec<Fate>,
    grace: u64,
    now: u64,
}

/// What went from a cache.
struct Gone {
    /// By rules; all of them from a cache that was destroyed.
    paths: Numbers,
    /// Those among them that made room.
    space: Numbers,
    nars: u64,
}

impl World {
    pub(super) fn foresee_collection(&self, options: &GcOptions<'_>) -> Foresight {
        let (grace, now) = (options.grace.as_secs(), self.now());
        let fate = |tenant: &Tenant| tenant.fate(&options.defaults, self.since, grace, now);
        Foresight { fates: self.tenants.iter().map(fate).collect(), grace, now }
    }

    /// Holds what is there now against what was foreseen, and goes on from it. With the report of a
    /// collection that came to its end, everything that was to go has to be gone. Otherwise some of it
    /// may be there still.
    pub(super) fn settle(
        &mut self,
        foresight: &Foresight,
        report: Option<&GcReport>,
    ) -> Result<(), Fault> {
        let (mut reports, mut nars) = (Vec::new(), 0);
        for (tenant, name) in NAMES.iter().enumerate() {
            let fate = &foresight.fates[tenant];
            let gone = self.settle_tenant(tenant, foresight, report.is_some());
            let gone = gone.map_err(failed(format!("after a collection, {name}")))?;
            // Of a cache that was destroyed they are not counted.
            nars += if fate.buried { 0 } else { gone.nars };
            reports.extend(self.report_of(tenant, fate, &gone));
            self.take_away(tenant, fate, &gone, report.is_some())?;
        }
        let Some(report) = report else { return Ok(()) };
        let mut found = report.caches.clone();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        same("what is said of caches", found, reports)?;
        same("what is said of NARs", report.nars, nars)
    }

    fn settle_tenant(
        &self,
        tenant: usize,
        foresight: &Foresight,
        complete: bool,
    ) -> Result<Gone, Fault> {
        let (fate, model) = (&foresight.fates[tenant], &self.tenants[tenant]);
        let there = self.listed(tenant)?;
        let paths: Numbers =
            model.paths.keys().copied().filter(|path| !there.contains(path)).collect();
        same(
            "paths that nobody published",
            there.iter().find(|it| !model.paths.contains_key(it)),
            None,
        )?;
        let by_time: Numbers = fate.unused.union(&fate.old).copied().collect();
        let space: Numbers = paths.difference(&by_time).copied().collect();
        if fate.buried {
            if complete {
                same("paths of a destroyed cache", &there, &Numbers::new())?;
            }
        } else {
            if complete && let Some(path) = by_time.difference(&paths).next() {
                return Err(format!("p{path} is there, and its time is over"));
            }
            for path in &there {
                if let Some(to) = model.references(*path).find(|to| paths.contains(to)) {
                    return Err(format!("p{to} went, and p{path} refers to it"));
                }
            }
            let kept: Numbers =
                model.paths.keys().copied().filter(|path| !by_time.contains(path)).collect();
            self.check_space(tenant, fate, &kept, &space, complete)?;
        }
        let nars = self.settle_nars(tenant, foresight, &there, complete)?;
        Ok(Gone { paths, space, nars })
    }

    /// What went of what is kept otherwise, to make room: see docs/caches.md.
    fn check_space(
        &self,
        tenant: usize,
        fate: &Fate,
        kept: &Numbers,
        space: &Numbers,
        complete: bool,
    ) -> Result<(), Fault> {
        let model = &self.tenants[tenant];
        let Some(room) = fate.max_size else {
            return same("what went for space where there is no limit", space, &Numbers::new());
        };
        let stays: Numbers = kept.difference(space).copied().collect();
        if let Some(path) = space.intersection(&fate.pinned).next() {
            return Err(format!("p{path} went, and a pin keeps it"));
        }
        if let Some(path) = space.iter().find(|path| fate.used[path] >= fate.fresh) {
            return Err(format!("p{path} went for space, and was used just now"));
        }
        let size = model.size(&stays);
        let mut free = stays.difference(&fate.pinned);
        if complete && size > room && free.any(|path| fate.used[path] < fate.fresh) {
            return Err(format!("{size} bytes are there, and there is room for {room}"));
        }
        let latest = space.iter().map(|path| fate.used[path]).max();
        let free = stays.difference(&fate.pinned);
        let earliest = free.min_by_key(|path| fate.used[path]);
        if let (Some(latest), Some(earliest)) = (latest, earliest)
            && fate.used[earliest] < latest
        {
            let used = fate.used[earliest];
            return Err(format!(
                "p{earliest} stayed, last used at {used}, and one of {latest} went"
            ));
        }
        // Without the last that went there was no room, whichever of those it was that were used then.
        let needless = |path: &usize| size + model.size(&model.circle(*path)) <= room;
        let mut last = space.iter().filter(|path| Some(fate.used[path]) == latest);
        if !space.is_empty() && last.all(needless) {
            return Err(format!("{space:?} went to make room, and {size} of {room} are taken"));
        }
        Ok(())
    }

    fn settle_nars(
        &self,
        tenant: usize,
        foresight: &Foresight,
        there: &Numbers,
        complete: bool,
    ) -> Result<u64, Fault> {
        let (fate, mut model) = (&foresight.fates[tenant], self.tenants[tenant].clone());
        model.paths.retain(|path, _| there.contains(path));
        let mut gone = 0;
        for nar in model.nars.keys() {
            let is_there = self.has_nar(tenant, *nar)?;
            gone += u64::from(!is_there);
            let (has_to, may) = model.nar_stays(*nar, foresight.grace, foresight.now);
            let (has_to, may) = (has_to && !fate.buried, may && !fate.buried);
            if has_to && !is_there {
                return Err(format!("NAR {nar:?} went too early, {:?}", model.nars[nar]));
            }
            if is_there && !may && complete {
                return Err(format!("NAR {nar:?} stays for too long, {:?}", model.nars[nar]));
            }
        }
        Ok(gone)
    }

    /// What the report has to say.
    fn report_of(&self, tenant: usize, fate: &Fate, gone: &Gone) -> Option<CacheReport> {
        let model = &self.tenants[tenant];
        let report = CacheReport { name: NAMES[tenant].to_owned(), ..CacheReport::default() };
        let of = |numbers: &Numbers| gone.paths.intersection(numbers).count() as u64;
        if fate.buried {
            let for_space = gone.paths.len() as u64;
            return (for_space > 0).then_some(CacheReport { destroyed: true, for_space, ..report });
        }
        let kept = model.paths.keys().filter(|path| !gone.paths.contains(path));
        (!fate.unruled && !model.paths.is_empty()).then(|| CacheReport {
            kept: kept.clone().count() as u64,
            kept_size: model.size(kept),
            pinned: fate.pinned.len() as u64,
            unused: of(&fate.unused),
            old: of(&fate.old),
            for_space: gone.space.len() as u64,
            gone_size: model.size(&gone.paths),
            ..report
        })
    }

    fn take_away(
        &mut self,
        tenant: usize,
        fate: &Fate,
        gone: &Gone,
        complete: bool,
    ) -> Result<(), Fault> {
        let nars: Vec<(usize, bool)> = self.tenants[tenant].nars.keys().copied().collect();
        let nars: Vec<_> =
            nars.into_iter().filter(|nar| self.has_nar(tenant, *nar) == Ok(true)).collect();
        let pins = self.pins_left(tenant)?;
        let model = &mut self.tenants[tenant];
        model.paths.retain(|path, _| !gone.paths.contains(path));
        model.nars.retain(|nar, _| nars.contains(nar));
        if fate.buried {
            let before = model.pins.len();
            model.pins.retain(|number, _| pins.contains(number));
            let some = !gone.paths.is_empty() || gone.nars > 0 || pins.len() < before;
            let burial = if some { Burial::Some } else { model.burial.unwrap_or(Burial::Nothing) };
            model.burial = (!complete).then_some(burial);
            self.tally.buried += gone.paths.len() as u64;
            return match complete && !pins.is_empty() {
                true => Err(format!("pins of {} are left", NAMES[tenant])),
                false => Ok(()),
            };
        }
        let count = |numbers: &Numbers| gone.paths.intersection(numbers).count() as u64;
        self.tally.unused += count(&fate.unused);
        self.tally.old += count(&fate.old);
        self.tally.space += gone.space.len() as u64;
        self.tally.nars += gone.nars;
        Ok(())
    }
}
