//! The time by which everything is decided that outlives a process: what was used when, what has waited
//! long enough, what has ended.
//!
//! It is the system's, unless a store is opened with another. How long something takes meanwhile (a
//! timeout, a pace) is not its matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time in whole seconds since 1970. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// `None` for the system's time.
    manual: Option<ManualClock>,
}

/// A clock that goes only when it is told to, for tests. All clones tell the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl Clock {
    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        match &self.manual {
            Some(manual) => manual.now(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }

    /// So long ago, in seconds since 1970.
    pub(crate) fn ago(&self, age: Duration) -> u64 {
        self.now().saturating_sub(age.as_secs())
    }
}

impl From<ManualClock> for Clock {
    fn from(manual: ManualClock) -> Self {
        Self { manual: Some(manual) }
    }
}

impl ManualClock {
    /// A clock that stands at that time, in seconds since 1970.
    pub fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Lets so much time pass; parts of a second do not count.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_goes_when_it_is_told_to_for_all_that_have_it() {
        let manual = ManualClock::at(1000);
        let clock = Clock::from(manual.clone());
        assert_eq!(clock.clone().now(), 1000);
        manual.advance(Duration::from_secs(60));
        assert_eq!((clock.now(), clock.ago(Duration::from_secs(61))), (1060, 999));
    }
}
