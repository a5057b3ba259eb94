//! A storehouse beside a model of what it has to hold.

mod collector;
mod deletion;
mod pins;
mod process;
mod publish;
mod readers;
mod settle;
mod tenants;
mod verify;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use castore::ManualClock;
use narbridge::cache::{CacheName, CacheSettings, Verified};
use narbridge::{Cache, Storehouse};

use crate::model::op::{Dice, Op};
use crate::ops::What;
use crate::pool::{NARS, PATHS, Paths, seldom};
use crate::site::Site;
use crate::tenant::{DAY, HOUR, MINUTE, Tenant};

/// What should not be.
pub type Fault = String;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Steps after which everything is read.
const READ_ALL: u64 = 40;

/// What happened in a run, to tell whether it went anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub published: u64,
    pub uses: u64,
    pub deleted: u64,
    pub refused: u64,
    pub collections: u64,
    pub unused: u64,
    pub old: u64,
    pub space: u64,
    pub buried: u64,
    pub nars: u64,
    pub swept: u64,
    pub stopped: u64,
    pub kills: u64,
    pub remade: u64,
    pub read: u64,
}

/// A path that is ready to be published.
struct Prepared {
    tenant: usize,
    path: usize,
    otherwise: bool,
    verified: Verified,
}

pub struct World {
    prepared: Option<Prepared>,
    house: Option<Arc<Storehouse>>,
    site: Site,
    clock: ManualClock,
    paths: Paths,
    tenants: Vec<Tenant>,
    /// Before that it is not known what was used; and as no kill can undo it.
    since: u64,
    step: u64,
    careful: bool,
    dice: Dice,
    pub tally: Tally,
}

/// Names what was tried.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> Fault {
    move |error| format!("{what}: {error}")
}

/// Where a value is not the one that it has to be.
fn same<T: PartialEq + std::fmt::Debug>(
    what: impl Display,
    found: T,
    expected: T,
) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, and {expected:?} is right"))
}

fn name(tenant: usize) -> CacheName {
    NAMES[tenant].parse().unwrap()
}

/// One of them.
fn pick<T: Copy>(of: impl IntoIterator<Item = T>, number: u16) -> Option<T> {
    let all: Vec<T> = of.into_iter().collect();
    all.get(usize::from(number) % all.len().max(1)).copied()
}

impl World {
    /// Caches without paths. When `careful`, everything is asked for after every step.
    pub fn new(seed: u64, careful: bool) -> Self {
        let site = Site::new(seed);
        let house = site.open().unwrap();
        for tenant in 0..NAMES.len() {
            house.create_cache(&name(tenant), &CacheSettings::default(), None).unwrap();
        }
        let clock = site.clock.clone();
        Self {
            prepared: None,
            house: Some(house),
            site,
            since: clock.now(),
            clock,
            paths: Paths::new(seed),
            tenants: vec![Tenant { keys: vec![None], ..Tenant::default() }; NAMES.len()],
            step: 0,
            careful,
            dice: Dice(seed ^ 0x0073_7465_7073),
            tally: Tally::default(),
        }
    }

    fn house(&self) -> Result<Arc<Storehouse>, Fault> {
        self.house.clone().ok_or_else(|| "the storehouse is not open".to_owned())
    }

    /// A cache, unless it was destroyed.
    fn cache(&self, tenant: usize) -> Result<Option<Arc<Cache>>, Fault> {
        let cache = self.house()?.cache(NAMES[tenant]);
        let (there, destroyed) = (cache.is_some(), self.tenants[tenant].destroyed.is_some());
        same(format!("cache {} is there", NAMES[tenant]), there, !destroyed)?;
        Ok(cache)
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    /// A path, mostly one that is there.
    fn likely(&self, tenant: usize, a: u16, b: u16) -> usize {
        let there = pick(self.tenants[tenant].paths.keys().copied(), a);
        there.filter(|_| !b.is_multiple_of(7)).unwrap_or(usize::from(a) % PATHS)
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Does what the operation says, and looks whether all is well.
    pub fn step(&mut self, op: &Op) -> Result<(), Fault> {
        self.step += 1;
        self.act(op)?;
        if self.step.is_multiple_of(READ_ALL) {
            return self.verify_all();
        }
        if self.careful {
            return self.verify_said();
        }
        for tenant in 0..NAMES.len() {
            self.verify_list(tenant)?;
        }
        for _ in 0..2 {
            let tenant = self.dice.below(NAMES.len() as u64) as usize;
            let path = self.dice.below(PATHS as u64) as usize;
            self.verify_path(tenant, path)?;
            let nar = self.dice.below(NARS.len() as u64) as usize;
            self.verify_nar(tenant, nar, self.step.is_multiple_of(2))?;
        }
        Ok(())
    }

    fn act(&mut self, op: &Op) -> Result<(), Fault> {
        let (a, b) = (op.a, op.b);
        let tenant = usize::from(op.member) % NAMES.len();
        let path = usize::from(a) % PATHS;
        match op.what {
            What::Publish => self.publish_closure(tenant, path, b),
            What::Lone => self.publish(tenant, path, b),
            What::Again => {
                let path = pick(self.tenants[tenant].paths.keys().copied(), a);
                path.map_or(Ok(()), |path| self.publish(tenant, path, b))
            }
            What::Upload => {
                let nar = usize::from(a) % NARS.len();
                self.upload(tenant, nar, b.is_multiple_of(2))
            }
            What::Announce => self.announce(tenant, path, b),
            What::Send => self.send(tenant, seldom(a), b),
            What::Prepare => self.prepare(tenant, path, b),
            What::Finish => self.finish(),
            What::Told => self.told(tenant, self.likely(tenant, a, b)),
            What::Read => self.read(tenant, self.likely(tenant, a, b), b),
            What::Sync => self.sync(tenant, self.likely(tenant, a, b)),
            What::Ask => self.ask(tenant, self.likely(tenant, a, b), b),
            What::Pin => self.pin(tenant, a, b),
            What::Unpin => self.unpin(tenant, a),
            What::Delete => self.delete(tenant, a, b),
            What::Configure => self.configure(tenant, a, b),
            What::Rotate => self.rotate(tenant, a),
            What::Destroy => self.destroy(tenant),
            What::Restore => self.restore(tenant),
            What::Seconds => {
                self.pass(u64::from(a) % (2 * MINUTE));
                Ok(())
            }
            What::Minutes => {
                self.pass(u64::from(a) % 60 * MINUTE);
                Ok(())
            }
            What::Days => {
                self.pass(if b.is_multiple_of(3) {
                    u64::from(a) % 40 * HOUR
                } else {
                    u64::from(a) % 12 * DAY
                });
                Ok(())
            }
            What::Collect | What::Dry | What::Stop | What::Meanwhile | What::Fall => {
                self.collect(op.what, a, b)
            }
            What::Kill => self.kill(a),
            What::Restart => self.restart(a),
        }
    }
}
