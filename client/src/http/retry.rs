//! When and how often a request is sent again.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Attempts of a command that a person waits for: what does not answer three times within a few
/// seconds is down, and they would rather know.
const PATIENT_ATTEMPTS: u32 = 3;
const PATIENT_TOTAL: Duration = Duration::from_secs(15);
/// Attempts of a push, which has work to lose: enough for a server that restarts and reads its log.
const STUBBORN_ATTEMPTS: u32 = 12;
const STUBBORN_TOTAL: Duration = Duration::from_secs(5 * 60);
/// The first pause is at most this long. A restarted proxy is back sooner; nobody notices it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// No pause is longer, unless the server asks for it: it is what a person loses once the server
/// is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// When to give up. Pauses double from attempt to attempt up to a bound, and each is a random part
/// of that (full jitter), so that the clients of a server that comes back do not come all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most.
    pub attempts: u32,
    /// No further attempt begins after pauses, and attempts in which nothing moved, of that long in
    /// all. While a body moves, however slowly, the time does not count.
    pub total: Duration,
    /// The bound of the first pause.
    pub first_pause: Duration,
    /// The bound of every pause.
    pub longest_pause: Duration,
}

impl RetryPolicy {
    /// For commands that a person waits for.
    pub fn patient() -> Self {
        Self {
            attempts: PATIENT_ATTEMPTS,
            total: PATIENT_TOTAL,
            first_pause: FIRST_PAUSE,
            longest_pause: LONGEST_PAUSE,
        }
    }

    /// For pushes.
    pub fn stubborn() -> Self {
        Self { attempts: STUBBORN_ATTEMPTS, total: STUBBORN_TOTAL, ..Self::patient() }
    }

    /// How long to pause after `failed` attempts, `lost` being the time in which nothing moved;
    /// `None` to give up.
    pub(crate) fn pause(
        &self,
        failed: u32,
        lost: Duration,
        asked_for: Option<Duration>,
    ) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doublings = failed.saturating_sub(1).min(31);
        let bound = self.first_pause.saturating_mul(1 << doublings).min(self.longest_pause);
        let pause = bound.mul_f64(random_fraction()).max(asked_for.unwrap_or_default());
        (lost.saturating_add(pause) <= self.total).then_some(pause)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::patient()
    }
}

/// Between 0 and 1. Where there is no randomness the pauses are merely not spread.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

/// Whether an answer speaks of something that passes.
pub(crate) fn passes(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Whether an answer says that nothing was done.
pub(crate) fn was_not_done(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
