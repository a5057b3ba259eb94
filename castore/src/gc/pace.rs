//! How fast work in the background may read and write, and when it has to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The longest pause at once, so that an end is noticed.
const STEP: Duration = Duration::from_millis(100);

/// Bytes per second, and a way to stop.
pub struct Pace<'a> {
    per_second: Option<u64>,
    stop: Option<&'a AtomicBool>,
    begun: Instant,
    bytes: u64,
}

impl<'a> Pace<'a> {
    /// As fast as it goes, to the end.
    pub fn unbound() -> Self {
        Self::new(None, None)
    }

    /// At most so many bytes per second, until `stop` says so.
    pub fn new(per_second: Option<u64>, stop: Option<&'a AtomicBool>) -> Self {
        Self { per_second, stop, begun: Instant::now(), bytes: 0 }
    }

    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// So much was read or written: waits for as long as that should have taken.
    pub fn spend(&mut self, bytes: u64) {
        self.bytes += bytes;
        let Some(per_second) = self.per_second.filter(|rate| *rate > 0) else { return };
        let due = Duration::from_secs_f64(self.bytes as f64 / per_second as f64);
        while let Some(left) = due.checked_sub(self.begun.elapsed())
            && !left.is_zero()
            && !self.is_over()
        {
            std::thread::sleep(left.min(STEP));
        }
    }
}
