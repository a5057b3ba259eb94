//! Times, as people read and write them.

use granary_api::duration;

const DAY: u64 = 86_400;

/// Seconds since 1970 as a date of UTC.
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / DAY, seconds % DAY);
    // Years are counted from March here, so that the leap day is the last of a year, and in eras
    // of 400, which all have the same days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Reads a moment as seconds since 1970: `2026-12-31` (all of that day, in UTC), RFC 3339 such as
/// `2026-12-31T12:00:00+01:00`, or a span from now such as `90d`.
pub fn parse_moment(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(span) = duration::parse(text) {
        return now.checked_add(span).ok_or_else(|| format!("`{text}` is too long"));
    }
    let bad = || {
        format!(
            "`{text}` is no time: a date such as 2026-12-31 is wanted, a time such as \
             2026-12-31T12:00:00Z, or a span from now such as 90d"
        )
    };
    let (date, time) = text.split_at_checked(10).ok_or_else(bad)?;
    let midnight = midnight(date).ok_or_else(bad)?;
    if time.is_empty() {
        return Ok(midnight + DAY);
    }
    time_of_day(time).and_then(|time| midnight.checked_add_signed(time)).ok_or_else(bad)
}

/// The start of a day such as `2026-12-31`, of UTC.
fn midnight(date: &str) -> Option<u64> {
    let mut parts = date.splitn(3, '-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // As in `utc`, the other way round.
    let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let seconds = (era * 146_097 + day_of_era - 719_468) * DAY;
    // A day that its month does not have is another one by now.
    utc(seconds).starts_with(date).then_some(seconds)
}

/// Seconds after midnight in UTC, of what follows a date: `T12:00:00Z`, `T12:00:00.5-03:30`.
fn time_of_day(text: &str) -> Option<i64> {
    let text = text.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = text.split_at_checked(8)?;
    let seconds = clock(time)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (rest.len() < fraction.len()).then_some(rest)?
        }
        None => rest,
    };
    let offset = match rest.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        ("+", offset) => clock(&format!("{offset}:00"))?,
        ("-", offset) => -clock(&format!("{offset}:00"))?,
        _ => return None,
    };
    Some(seconds - offset)
}

/// Seconds of `12:34:56`.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let (hour, minute, second) =
        (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let there = hour < 24 && minute < 60 && second <= 60;
    there.then(|| (hour * 3600 + minute * 60 + second).cast_signed())
}

/// A number of so many digits.
fn digits(text: &str, count: usize) -> Option<u64> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// A span of seconds, in its largest unit.
pub fn span(seconds: u64) -> String {
    let units = [("days", DAY), ("hours", 3600), ("minutes", 60)];
    let found = units.into_iter().find(|(_, unit)| seconds >= unit * 2);
    found.map_or_else(
        || format!("{seconds} seconds"),
        |(name, unit)| format!("{} {name}", seconds / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), date);
        }
        assert_eq!(span(3 * DAY + 5), "3 days");
        assert_eq!(span(119), "119 seconds");
    }
    #[test]
    fn moments_are_dates_times_and_spans() {
        for (text, seconds) in [
            ("1970-01-01", DAY),
            ("2000-02-29", 951_782_400 + DAY),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2025-01-01T00:59:59.25+01:00", 1_735_689_599),
            ("2024-12-31 20:29:59-03:30", 1_735_689_599),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("90d", 90 * DAY + 5),
            ("1d12h", DAY + DAY / 2 + 5),
        ] {
            assert_eq!(parse_moment(text, 5), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            "soon",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-00-10",
            "2026-1-01",
            "1969-12-31",
            "2026-12-31T",
            "2026-12-31T12:00Z",
            "2026-12-31T12:00:00",
            "2026-12-31T24:00:00Z",
            "2026-12-31T12:00:00.Z",
            "2026-12-31T12:00:00+1:00",
            "2026-12-3\u{e4}",
            "1970-01-01T00:00:00+01:00",
            "99999999999999999999d",
        ] {
            assert!(parse_moment(bad, 5).is_err(), "{bad}");
        }
        assert!(parse_moment("1s", u64::MAX).is_err());
    }
}
