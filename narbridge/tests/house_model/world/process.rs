//! Ends of the server, wanted or not, and new beginnings.

use std::fs;
use std::path::PathBuf;

use super::settle::Foresight;
use super::*;

impl World {
    pub(super) fn restart(&mut self, a: u16) -> Result<(), Fault> {
        self.prepared = None;
        self.house = None;
        for tenant in &mut self.tenants {
            tenant.sent.restarted = true;
            for stored in tenant.paths.values_mut() {
                stored.written = stored.used;
            }
        }
        self.open_again(a.is_multiple_of(4), None)?;
        self.verify_all()
    }

    pub(super) fn kill(&mut self, a: u16) -> Result<(), Fault> {
        let old = self.site.kill();
        self.bury_process(old, a.is_multiple_of(4), None)?;
        self.verify_all()
    }

    /// What the process still held is dropped only now: none of it may matter. Uses that it noted may be
    /// forgotten, and nothing else.
    pub(super) fn bury_process(
        &mut self,
        old: PathBuf,
        index_lost: bool,
        collecting: Option<&Foresight>,
    ) -> Result<(), Fault> {
        self.tally.kills += 1;
        self.prepared = None;
        self.house = None;
        let _ = fs::remove_dir_all(old);
        self.tenants.iter_mut().for_each(|tenant| tenant.sent.chunks.clear());
        self.open_again(index_lost, collecting)
    }

    fn open_again(
        &mut self,
        index_lost: bool,
        collecting: Option<&Foresight>,
    ) -> Result<(), Fault> {
        if index_lost {
            self.site.lose_index();
            self.tenants.iter_mut().for_each(|tenant| tenant.sent.chunks.clear());
        }
        let house = self.site.open().map_err(failed("opening the storehouse again"))?;
        let since = house.used_since().map_err(failed("asking since when uses are known"))?;
        // A kill may leave an index that does not open, or that does not know since when it is there.
        let made_anew = since == self.now();
        if !made_anew && (index_lost || since != self.since) {
            return Err(format!("uses are known since {since}, and before since {}", self.since));
        }
        self.tally.remade += u64::from(made_anew);
        self.house = Some(house);
        collecting.map_or(Ok(()), |foresight| self.settle(foresight, None))?;
        for tenant in 0..NAMES.len() {
            self.learn_uses(tenant, since, made_anew)?;
        }
        self.since = since;
        Ok(())
    }

    /// Finds out which uses are known after an end: none that no kill could undo may be missing, and none
    /// may be known that was not.
    fn learn_uses(&mut self, tenant: usize, since: u64, forgotten: bool) -> Result<(), Fault> {
        let caches = self.house()?.caches();
        let cache = caches.iter().find(|cache| cache.name().as_str() == NAMES[tenant]);
        let cache = cache.ok_or("a cache is not there")?;
        for (path, stored) in &mut self.tenants[tenant].paths {
            let known = cache.last_used(self.paths.hash(*path));
            let known = known.map_err(failed("asking for a last use"))?;
            let at = |use_of: Option<u64>| use_of.unwrap_or_default().max(stored.uploaded);
            let least = if forgotten { since } else { at(stored.written) };
            let found = at(known).max(since);
            if found < least || found > at(stored.used).max(since) {
                return Err(format!(
                    "p{path} was last used at {:?}, or {:?} if that was forgotten, and {known:?} \
                     is known",
                    stored.used, stored.written
                ));
            }
            (stored.used, stored.written) = (known, known);
        }
        Ok(())
    }
}
