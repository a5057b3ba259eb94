//! Whether all is as it has to be.

use castore::fsck::Damage;
use castore::{Digest, Kind};
use narbridge::cache::Deletion;
use narbridge::gc::GcOptions;

use super::readers::is_right;
use super::*;
use crate::pool::pusher;
use crate::tenant::Numbers;

impl World {
    /// A cache as the server sees it, destroyed or not.
    pub(super) fn any_cache(&self, tenant: usize) -> Result<Arc<Cache>, Fault> {
        let caches = self.house()?.caches();
        let cache = caches.into_iter().find(|cache| cache.name().as_str() == NAMES[tenant]);
        cache.ok_or_else(|| format!("there is no {}", NAMES[tenant]))
    }

    /// The paths that a cache lists, destroyed or not.
    pub(super) fn listed(&self, tenant: usize) -> Result<Numbers, Fault> {
        let listed = self.any_cache(tenant)?.paths(None, 1000).map_err(failed("listing paths"))?;
        let numbers = listed.iter().map(|path| self.paths.number(path.hash()));
        numbers.collect::<Option<_>>().ok_or_else(|| "an unknown path is listed".to_owned())
    }

    pub(super) fn has_nar(&self, tenant: usize, nar: (usize, bool)) -> Result<bool, Fault> {
        let there = self.any_cache(tenant)?.nar(NARS[nar.0].name(nar.1));
        Ok(there.map_err(failed("asking for a NAR"))?.is_some())
    }

    /// The paths that a cache lists are those that have to be there.
    pub(super) fn verify_list(&self, tenant: usize) -> Result<(), Fault> {
        let listed = self.listed(tenant)?;
        let expected: Numbers = self.tenants[tenant].paths.keys().copied().collect();
        let lacking: Vec<_> = expected.difference(&listed).collect();
        let left: Vec<_> = listed.difference(&expected).collect();
        match lacking.is_empty() && left.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} lacks paths {lacking:?}, and has paths {left:?} that it should not",
                NAMES[tenant]
            )),
        }
    }

    /// What is said of a path is right; or it is to nobody as if it were there.
    pub(super) fn verify_path(&self, tenant: usize, path: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let what = |what: &str| format!("{what} of p{path} in {}", NAMES[tenant]);
        let hash = self.paths.hash(path);
        let info = cache.path_info(hash).map_err(failed("asking for a path"))?;
        let Some(stored) = self.tenants[tenant].paths.get(&path) else {
            // None of this counts as a use, since nothing is there.
            let narinfo = cache.narinfo(hash).map_err(failed("asking for a narinfo"))?;
            let listing = cache.listing(hash).map_err(failed("asking for a listing"))?;
            let there = (info.is_some(), narinfo.is_some(), listing.is_some());
            return same(what("whether there is anything"), there, (false, false, false));
        };
        let info = info.ok_or_else(|| format!("p{path} is not in {}", NAMES[tenant]))?;
        let made = &NARS[stored.nar];
        same(what("the hash"), info.nar_hash, made.hash)?;
        let sizes = (made.bytes.len() as u64, stored.size);
        same(what("the sizes"), (info.nar_size, info.file_size), sizes)?;
        same(what("the upload"), info.uploaded, stored.uploaded)?;
        let references = stored.references.iter().map(|to| self.paths.path(*to).to_string());
        let mut references: Vec<_> = references.collect();
        references.sort();
        same(what("the references"), info.references, references)?;
        let used = cache.last_used(hash).map_err(failed("asking for a last use"))?;
        let used = used.unwrap_or_default().max(stored.uploaded).max(self.since);
        let used = used.max(self.tenants[tenant].restored);
        same(what("the last use"), used, self.tenants[tenant].last_use(path, self.since))
    }

    /// A NAR is to be had by its name or not, as it has to be.
    pub(super) fn verify_nar(&self, tenant: usize, nar: usize, gzip: bool) -> Result<(), Fault> {
        if self.tenants[tenant].destroyed.is_some() {
            return Ok(());
        }
        let there = self.tenants[tenant].nars.contains_key(&(nar, gzip));
        let what = format!("whether NAR {nar} (gzip: {gzip}) is in {}", NAMES[tenant]);
        same(what, self.has_nar(tenant, (nar, gzip))?, there)
    }

    /// Everything that a cache says.
    pub(super) fn verify_tenant(&self, tenant: usize) -> Result<(), Fault> {
        self.verify_list(tenant)?;
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        self.verify_pins(tenant)?;
        for path in 0..PATHS {
            self.verify_path(tenant, path)?;
        }
        for number in 0..NARS.len() {
            self.verify_nar(tenant, number, false)?;
            self.verify_nar(tenant, number, true)?;
        }
        let held: Vec<Digest> = self.held(tenant).into_iter().collect();
        let missing = cache.missing_chunks(&held, &pusher(&cache));
        let missing = missing.map_err(failed("asking for chunks"))?;
        match held.iter().zip(missing).find(|(_, missing)| *missing) {
            Some((chunk, _)) => Err(format!("{} does not hold chunk {chunk}", NAMES[tenant])),
            None => Ok(()),
        }
    }

    /// Everything that caches say.
    pub(super) fn verify_said(&self) -> Result<(), Fault> {
        (0..NAMES.len()).try_for_each(|tenant| self.verify_tenant(tenant))
    }

    /// The same, and every NAR to its last byte.
    pub(super) fn verify_all(&self) -> Result<(), Fault> {
        self.verify_said()?;
        for (tenant, name) in NAMES.iter().enumerate() {
            let Some(cache) = self.cache(tenant)? else { continue };
            for (number, made) in NARS.iter().enumerate() {
                let file = cache.nar(made.served()).map_err(failed("asking for a NAR"))?;
                let right = file.map_or(Ok(()), |file| is_right(file, made));
                right.map_err(failed(format!("NAR {number} of {name}")))?;
            }
        }
        Ok(())
    }

    /// Everything is deleted, or destroyed, and collected: nothing is left.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.verify_all()?;
        let house = self.house()?;
        let found = house.fsck(&Damage::default(), &mut |_| ()).map_err(failed("a check"))?;
        same("problems that a check finds", format!("{:?}", found.problems), "[]".to_owned())?;
        drop(house);
        self.prepared = None;
        for tenant in 0..NAMES.len() {
            match self.step.is_multiple_of(2) {
                true => self.destroy(tenant)?,
                false => self.delete_all(tenant)?,
            }
        }
        self.pass(25 * HOUR);
        let (grace, max_unneeded) = (Duration::ZERO, 0.0);
        let options = GcOptions { grace, max_unneeded, ..GcOptions::default() };
        for _ in 0..2 {
            self.pass(1);
            self.collect_all(&options)?;
        }
        for tenant in 0..NAMES.len() {
            self.restore(tenant)?;
            same("what is left", self.tenants[tenant].paths.len(), 0)?;
            same("NARs that are left", self.tenants[tenant].nars.len(), 0)?;
        }
        self.restart(1)?;
        let report = self.collect_all(&GcOptions { dry_run: true, ..options })?;
        let packs = (report.packs.condemn.packs, report.packs.condemned.packs);
        same("packs that are not needed", packs, (0, 0))?;
        // One record in three hundred is taken for needed.
        let house = self.house()?;
        let is_there = |chunk: &Digest| house.store().locate(Kind::Chunk, chunk);
        let mut left: Vec<Digest> = NARS.iter().flat_map(|made| made.chunks()).collect();
        left.retain(|chunk| !matches!(is_there(chunk), Ok(None)));
        left.sort_unstable();
        left.dedup();
        match left.len() {
            0 | 1 => Ok(()),
            _ => Err(format!("chunks are left: {left:?}")),
        }
    }

    fn delete_all(&mut self, tenant: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        for pin in 0..3 {
            self.unpin(tenant, pin)?;
        }
        let model = &mut self.tenants[tenant];
        let paths = model.paths.keys().map(|path| self.paths.hash(*path)).collect();
        let wanted = Deletion { paths, referrers: false, closure: false };
        let plan = cache.plan_deletion(&wanted).map_err(failed("planning to delete all"))?;
        let deleted = cache.delete(plan).map_err(failed("deleting all"))?;
        same("how many were deleted", deleted.paths.len(), model.paths.len())?;
        model.paths.clear();
        Ok(())
    }
}
