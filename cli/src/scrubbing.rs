//! Healing in the background of a server: paths that lost something are found soon after the damage was,
//! and the whole store is read over and over where that is wanted. Where several servers share one store,
//! one of them reads.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use castore::StoreError;
use narbridge::scrub::{BrokenReport, ScrubOptions};
use narbridge::{Storehouse, StorehouseError};

/// How often there is a look whether damage was found.
const LOOK: Duration = Duration::from_secs(10);
/// The pause between two passes, and before what failed, or is done by another server, is tried again.
const PAUSE: Duration = Duration::from_secs(3600);
/// How often what counts as damaged is read again: it may have been put back, or the way to it was at fault.
const AGAIN: Duration = Duration::from_secs(20);
/// The same where that is more than so many records.
const MANY_AGAIN: Duration = Duration::from_secs(600);
const MANY: usize = 100;
/// How soon an end is noticed.
const STEP: Duration = Duration::from_millis(100);

/// The threads that do it. They end soon after this is dropped.
pub struct Scrubbing {
    stop: Arc<AtomicBool>,
}

impl Drop for Scrubbing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Scrubbing {
    /// Works for as long as the storehouse is in use. Without a rate nothing is read for its own sake.
    pub fn start(house: &Arc<Storehouse>, rate: Option<u64>) -> io::Result<Self> {
        let scrubbing = Self { stop: Arc::default() };
        let spawn = |name: &str, work: fn(Worker), rate: Option<u64>| {
            let stop = scrubbing.stop.clone();
            let worker = Worker { house: Arc::downgrade(house), stop, rate };
            std::thread::Builder::new().name(name.to_owned()).spawn(move || work(worker)).map(drop)
        };
        spawn("heal", Worker::heal, None)?;
        if rate.is_some() {
            spawn("scrub", Worker::scrub, rate)?;
        }
        Ok(scrubbing)
    }
}

struct Worker {
    house: Weak<Storehouse>,
    stop: Arc<AtomicBool>,
    rate: Option<u64>,
}

impl Worker {
    /// Waits. `None`: it is time to end.
    fn after(&self, pause: Duration) -> Option<Arc<Storehouse>> {
        let until = Instant::now() + pause;
        while !self.is_over() && Instant::now() < until {
            std::thread::sleep(STEP);
        }
        self.house.upgrade().filter(|_| !self.is_over())
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Finds the paths that suffer from damage that became known.
    fn heal(self) {
        let (mut seen, mut again) = (0, Instant::now() + AGAIN);
        while let Some(house) = self.after(LOOK) {
            if again <= Instant::now() {
                let pause = look_again(&house).unwrap_or_else(|error| {
                    tracing::debug!(%error, "what is damaged cannot be looked at yet");
                    MANY_AGAIN
                });
                again = Instant::now() + pause;
            }
            let changes = house.store().damage_changes();
            if changes == seen {
                continue;
            }
            match house.find_broken(Some(&self.stop), &mut |_| ()) {
                Ok(Some(found)) => {
                    seen = changes;
                    tell(&found);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "which paths are broken cannot be found out yet");
                }
            }
        }
    }

    fn scrub(self) {
        let mut pause = Duration::ZERO;
        while let Some(house) = self.after(pause) {
            pause = PAUSE;
            if let Err(error) = self.pass(&house) {
                tracing::warn!(%error, "scrubbing has to wait");
            }
        }
    }

    fn pass(&self, house: &Storehouse) -> Result<(), StorehouseError> {
        let stop = Some(&*self.stop);
        let options = ScrubOptions { rate: self.rate, threads: 1, resume: true, stop };
        let Some(found) = house.scrub(options, &mut |_| ())? else {
            tracing::debug!("another server scrubs this store");
            return Ok(());
        };
        for problem in &found.packs.problems {
            tracing::error!(%problem, "found by scrubbing");
        }
        if let Some(broken) = found.broken {
            let (packs, bytes, damaged) =
                (found.packs.packs, found.packs.bytes, found.packs.damaged);
            tracing::info!(packs, bytes, damaged, "the store was scrubbed");
            tell(&broken);
        }
        Ok(())
    }
}

/// Reads what counts as damaged again. Returns when to do that the next time.
fn look_again(house: &Storehouse) -> Result<Duration, StoreError> {
    let damaged = house.store().damaged()?.len();
    if damaged > 0 {
        let whole = house.store().recheck_damaged()?;
        if whole > 0 {
            tracing::info!(whole, "records that counted as damaged are whole");
        }
    }
    Ok(if damaged > MANY { MANY_AGAIN } else { AGAIN })
}

fn tell(found: &BrokenReport) {
    if found.trees > 0 {
        let (paths, trees) = (found.paths.len(), found.trees);
        tracing::error!(paths, trees, "paths are broken until they are pushed again");
    }
}
