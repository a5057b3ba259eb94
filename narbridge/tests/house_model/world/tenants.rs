//! Caches: their rules and keys, their end, and their return.

use narbridge::StorehouseError;
use narbridge::cache::CacheChanges;
use narbridge::retention::Rules;

use super::*;
use crate::tenant::Burial;

/// More keys make no difference, and every narinfo longer.
const KEYS: usize = 5;

impl World {
    pub(super) fn configure(&mut self, tenant: usize, a: u16, b: u16) -> Result<(), Fault> {
        if self.cache(tenant)?.is_none() {
            return Ok(());
        }
        let one = |values: [u64; 4]| Some(values[usize::from(a / 3) % 5..].first().copied());
        let mut changes = CacheChanges::default();
        // The last of five stands for the server's default.
        match b % 3 {
            0 => changes.retention = one([2 * DAY, 9 * DAY, 30 * DAY, 90 * DAY]),
            1 => changes.max_age = one([15 * DAY, 40 * DAY, 90 * DAY, 300 * DAY]),
            _ => changes.max_size = one([100_000, 500_000, 900_000, 1_500_000]),
        }
        let done = self.house()?.configure_cache(&name(tenant), &changes);
        let cache = done.map_err(failed("configuring a cache"))?;
        self.tenants[tenant].configure(&changes);
        let (retention, max_age, max_size) = (cache.retention(), cache.max_age(), cache.max_size());
        let told = Rules { retention, max_age, max_size };
        same("the rules of a cache", told, self.tenants[tenant].rules)
    }

    /// A new key, and the others sign for a while only.
    pub(super) fn rotate(&mut self, tenant: usize, a: u16) -> Result<(), Fault> {
        if self.cache(tenant)?.is_none() || self.tenants[tenant].keys.len() >= KEYS {
            return Ok(());
        }
        let after = u64::from(a) % 200 * HOUR + 1;
        let done = self.house()?.add_key(&name(tenant), None, Some(after));
        done.map_err(failed("adding a key"))?;
        let until = self.now() + after;
        let keys = &mut self.tenants[tenant].keys;
        keys.iter_mut().for_each(|key| *key = Some(key.map_or(until, |before| before.min(until))));
        keys.push(None);
        Ok(())
    }

    pub(super) fn destroy(&mut self, tenant: usize) -> Result<(), Fault> {
        if self.cache(tenant)?.is_none() {
            return Ok(());
        }
        self.house()?.destroy_cache(&name(tenant)).map_err(failed("destroying a cache"))?;
        self.tenants[tenant].destroyed = Some(self.now());
        Ok(())
    }

    pub(super) fn restore(&mut self, tenant: usize) -> Result<(), Fault> {
        // The one that was destroyed, whichever was meant.
        let destroyed = |tenant: &usize| self.tenants[*tenant].destroyed.is_some();
        let Some(tenant) = (0..NAMES.len()).map(|at| (tenant + at) % NAMES.len()).find(destroyed)
        else {
            return Ok(());
        };
        let restored = self.house()?.restore_cache(&name(tenant));
        let model = &mut self.tenants[tenant];
        let is_left = !model.paths.is_empty() || !model.nars.is_empty() || !model.pins.is_empty();
        match (restored, model.burial.take()) {
            (Ok(_), Some(Burial::Some)) if is_left => {
                return Err("a cache was restored of which some is gone".to_owned());
            }
            (Err(StorehouseError::Buried(_)), burial @ Some(_)) => {
                model.burial = burial;
                return Ok(());
            }
            (restored, _) => drop(restored.map_err(failed("restoring a cache"))?),
        }
        self.tenants[tenant].destroyed = None;
        self.tenants[tenant].restored = self.now();
        self.verify_tenant(tenant)
    }
}
