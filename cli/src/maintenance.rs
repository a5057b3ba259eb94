//! Work in the background of a server. Where several servers share one store, one of them does it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use granary_api::duration;
use indicatif::DecimalBytes;
use narbridge::gc::{GcOptions, GcReport};
use narbridge::retention::Defaults;
use narbridge::{Storehouse, StorehouseError};

use crate::size::parse_size;

/// How often abandoned uploads are looked for. The first look is at the start.
const LOOK: Duration = Duration::from_secs(600);
/// How long a server answers before it collects: whoever restarts one wants that first. And how long it
/// waits after a collection that failed.
const CALM: Duration = Duration::from_secs(60);
/// Uploads of packs that are older than this will not be finished by anybody: one takes minutes.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// How garbage is collected by a server.
#[derive(Args, Clone, Copy)]
pub struct Collecting {
    /// How often to collect garbage; 0s for never
    #[arg(
        long, value_name = "TIME", default_value = "6h", value_parser = duration::parse,
        env = "GRANARY_GC_INTERVAL"
    )]
    gc_interval: u64,
    /// How long what nothing needs any more stays, and destroyed caches can be restored
    #[arg(
        long, value_name = "TIME", default_value = "1d", value_parser = duration::parse,
        env = "GRANARY_GC_GRACE"
    )]
    gc_grace: u64,
    /// Read and write no faster than so much per second for it [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "GRANARY_GC_RATE")]
    gc_rate: Option<u64>,
}

impl Collecting {
    /// The options of a collection.
    pub fn options(&self, defaults: Defaults) -> GcOptions<'static> {
        let grace = Duration::from_secs(self.gc_grace);
        GcOptions { defaults, grace, rate: self.gc_rate, ..GcOptions::default() }
    }

    /// For how long collecting has to wait; `None` for ever. Other servers on the same store collect, too, and
    /// a server that is started again goes on counting.
    fn due_in(&self, house: &Storehouse) -> Result<Option<Duration>, StorehouseError> {
        if self.gc_interval == 0 {
            return Ok(None);
        }
        let Some(last) = house.last_collected()? else {
            house.note_collected()?;
            return Ok(Some(Duration::from_secs(self.gc_interval)));
        };
        let since = house.store().now().saturating_sub(last);
        Ok(Some(Duration::from_secs(self.gc_interval.saturating_sub(since))))
    }
}

/// The work. It ends when this is dropped.
pub struct Maintenance {
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct End {
    come: AtomicBool,
    waiting: Mutex<()>,
    news: Condvar,
}

impl End {
    /// Waits for so long, or until the end has come.
    fn wait(&self, time: Duration) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let go_on = |(): &mut ()| !self.come.load(Ordering::Acquire);
        drop(self.news.wait_timeout_while(waiting, time, go_on));
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        {
            let _waiting = self.end.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.end.come.store(true, Ordering::Release);
        }
        self.end.news.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that works in the background has panicked");
        }
    }
}

/// Works for as long as the storehouse is in use, and what this returns is kept.
pub fn start(
    house: &Arc<Storehouse>,
    collecting: Collecting,
    defaults: Defaults,
) -> io::Result<Maintenance> {
    let house: Weak<Storehouse> = Arc::downgrade(house);
    let end = Arc::new(End::default());
    let ended = end.clone();
    let work = move || {
        let options = collecting.options(defaults);
        let calm = CALM.min(Duration::from_secs(collecting.gc_interval));
        let (mut tidy_at, mut calm_until) = (Instant::now(), Instant::now() + calm);
        while let Some(house) = house.upgrade() {
            if tidy_at <= Instant::now() {
                told(tidy(&house));
                tidy_at = Instant::now() + LOOK;
            }
            let mut due = collecting.due_in(&house);
            if matches!(due, Ok(Some(Duration::ZERO))) && calm_until <= Instant::now() {
                told(collect(&house, &GcOptions { stop: Some(&ended.come), ..options }));
                calm_until = Instant::now() + calm;
                due = collecting.due_in(&house);
            }
            drop(house);
            let mut wait = tidy_at.saturating_duration_since(Instant::now());
            match due {
                Ok(None) => {}
                Ok(Some(due)) => {
                    wait = wait.min(due.max(calm_until.saturating_duration_since(Instant::now())));
                }
                Err(error) => told(Err(error)),
            }
            ended.wait(wait);
            if ended.come.load(Ordering::Acquire) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("maintenance".to_owned()).spawn(work)?;
    Ok(Maintenance { end, thread: Some(thread) })
}

fn told(done: Result<(), StorehouseError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "work in the background has to wait");
    }
}

fn tidy(house: &Storehouse) -> Result<(), StorehouseError> {
    let Some(_alone) = house.store().try_exclusive("maintenance")? else {
        tracing::debug!("another server works in the background");
        return Ok(());
    };
    let removed = house.store().tidy(ABANDONED)?;
    if removed > 0 {
        tracing::info!(removed, "removed uploads that were never finished");
    }
    Ok(())
}

fn collect(house: &Storehouse, options: &GcOptions<'_>) -> Result<(), StorehouseError> {
    let started = Instant::now();
    match house.collect(options, &mut |_| ())? {
        None => tracing::debug!("garbage is being collected already"),
        Some(report) => say(&report, started.elapsed()),
    }
    Ok(())
}

fn say(report: &GcReport, took: Duration) {
    let (swept, condemned) = (&report.swept, &report.packs.condemn);
    let nothing = report.paths() == 0 && swept.packs == 0 && condemned.packs == 0;
    if nothing {
        tracing::debug!(?took, "there was no garbage");
        return;
    }
    tracing::info!(
        paths = report.paths(),
        freed = %DecimalBytes(swept.freed()),
        moved = %DecimalBytes(swept.moved),
        packs_removed = swept.packs,
        packs_condemned = condemned.packs,
        to_come = %DecimalBytes(condemned.unneeded()),
        ?took,
        "collected garbage"
    );
}

#[cfg(test)]
mod tests {
    use castore::{ManualClock, Options};

    use super::*;

    #[test]
    fn a_server_that_is_started_again_goes_on_counting() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(1_000_000));
        let open = || {
            let clock = clock.clone().into();
            Storehouse::open(dir.path(), Options { clock, ..Options::new(&mut |_| ()) }).unwrap()
        };
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        let daily = Collecting { gc_interval: 24 * 3600, gc_grace: 0, gc_rate: None };
        assert_eq!(daily.due_in(&open()).unwrap(), Some(hours(24)));
        clock.advance(hours(20));
        assert_eq!(daily.due_in(&open()).unwrap(), Some(hours(4)));
        clock.advance(hours(20));
        let house = open();
        assert_eq!(daily.due_in(&house).unwrap(), Some(Duration::ZERO));
        collect(&house, &GcOptions::default()).unwrap();
        assert_eq!(daily.due_in(&house).unwrap(), Some(hours(24)));
        let never = Collecting { gc_interval: 0, ..daily };
        assert_eq!(never.due_in(&house).unwrap(), None);
    }
}
