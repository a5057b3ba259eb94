//! Tries again what a lost connection or another transaction has interrupted.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::IndexError;
use super::error::Failure;

/// How long after the first failure another try is begun. A server restarts in less, and a caller
/// whose server is gone is told so soon enough to do something about it.
const FOR: Duration = Duration::from_secs(3);

/// Between tries: the first pause, which doubles up to the last.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Runs `work` until it succeeds, fails for good, or has failed for [`FOR`].
pub(super) async fn retried<T>(
    work: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, IndexError> {
    let mut failing_since = None;
    let mut pauses = Pauses::new(LONGEST_PAUSE);
    loop {
        let failure = match work().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let since: Instant = *failing_since.get_or_insert_with(Instant::now);
        if !failure.is_passing() || since.elapsed() > FOR {
            return Err(failure.into());
        }
        sleep(pauses.next()).await;
    }
}

/// Pauses that grow, and that differ from process to process: those who were interrupted together
/// do not come back together.
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    pub(super) fn new(longest: Duration) -> Self {
        Self { next: PAUSE, longest }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        let chance = getrandom::u32().unwrap_or(u32::MAX);
        pause.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
    }
}
