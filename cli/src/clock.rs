//! This machine's time, and times seen from it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::{parse_moment, span, utc};

/// This machine's time, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads a moment: see [`parse_moment`].
pub fn moment(text: &str) -> Result<u64, String> {
    parse_moment(text, now())
}

/// `2026-01-02 03:04:05 UTC, in 3 days`, or `…, 3 days ago`
pub fn relative(time: u64, now: u64) -> String {
    if time >= now {
        format!("{}, in {}", utc(time), span(time - now))
    } else {
        format!("{}, {} ago", utc(time), span(now - time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_ahead_or_behind() {
        assert_eq!(relative(3 * 86_400, 0), "1970-01-04 00:00:00 UTC, in 3 days");
        assert_eq!(relative(0, 7200), "1970-01-01 00:00:00 UTC, 2 hours ago");
    }
}
