//! Points in time, in seconds since 1970, as a person reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::duration::roughly;

const DAY: u64 = 24 * 3600;

/// This machine's time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-01-02 03:04 UTC`
pub fn date(time: u64) -> String {
    let (year, month, day) = civil(time / DAY);
    let (hour, minute) = (time % DAY / 3600, time % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// `2026-01-02 03:04 UTC, in 3 days`, or `…, 3 days ago`
pub fn relative(time: u64, now: u64) -> String {
    if time >= now {
        format!("{}, in {}", date(time), roughly(time - now))
    } else {
        format!("{}, {} ago", date(time), roughly(now - time))
    }
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the
/// leap day is a year's last; 400 of them are 146 097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @…`.
        for (time, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(time), text);
        }
        assert_eq!(relative(86_400 * 3, 0), "1970-01-04 00:00 UTC, in 3 days");
        assert_eq!(relative(0, 7200), "1970-01-01 00:00 UTC, 2 hours ago");
    }
}
