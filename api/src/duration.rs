//! Spans of time as people write them: `30s`, `15m`, `12h`, `30d`, `2w`, `1y`.

/// Seconds in a minute, an hour, a day, a week and a year of 365 days.
const UNITS: [(char, u64); 6] =
    [('s', 1), ('m', 60), ('h', 3600), ('d', DAY), ('w', 7 * DAY), ('y', 365 * DAY)];
const DAY: u64 = 24 * 3600;

/// Reads a span as seconds. Several may be put together: `1d12h`.
pub fn parse(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a span of time such as 30s, 15m, 12h, 30d, 2w or 1y");
    let too_long = || format!("`{text}` is too long");
    let (mut total, mut number) = (0_u64, None);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let so_far: u64 = number.unwrap_or(0);
            let longer = so_far.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit)));
            number = Some(longer.ok_or_else(too_long)?);
        } else {
            let (_, unit) = UNITS.iter().find(|(name, _)| *name == c).ok_or_else(bad)?;
            let number = number.take().ok_or_else(bad)?;
            let more = number.checked_mul(*unit).and_then(|more| total.checked_add(more));
            total = more.ok_or_else(too_long)?;
        }
    }
    if number.is_some() || text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// Writes seconds as a span, in the largest unit that is exact.
pub fn write(seconds: u64) -> String {
    // Weeks and years only where they are what one would say.
    let exact = |unit: &u64| seconds >= *unit && seconds.is_multiple_of(*unit);
    match UNITS.iter().rev().filter(|(name, _)| *name != 'w').find(|(_, unit)| exact(unit)) {
        Some((name, unit)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("0s", 0),
            ("30s", 30),
            ("15m", 900),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
            ("1y", 31_536_000),
            ("1d12h", 129_600),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            "30",
            "d",
            "30 d",
            "-1d",
            "1.5h",
            "30x",
            "99999999999999999999s",
            "9999999999999999y",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (seconds, text) in
            [(0, "0s"), (90, "90s"), (3600, "1h"), (2_592_000, "30d"), (31_536_000, "1y")]
        {
            assert_eq!(write(seconds), text);
            assert_eq!(parse(text), Ok(seconds));
        }
    }
}
