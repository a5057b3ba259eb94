//! `Range: bytes=…` (RFC 9110, section 14): a single range; several are answered with everything.

use std::ops::Range;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The whole of it.
    All,
    /// These bytes, which exist.
    Part(Range<u64>),
    /// Bytes that do not exist.
    Unsatisfiable,
}

/// Reads a `Range` header for something of `len` bytes. What is not understood counts as absent.
pub(crate) fn parse(header: Option<&str>, len: u64) -> Asked {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Asked::All;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Asked::All;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (None, Some(0)) => Asked::Unsatisfiable,
        (None, Some(suffix)) if first.is_empty() => Asked::Part(len.saturating_sub(suffix)..len),
        (Some(from), None) if last.is_empty() && from < len => Asked::Part(from..len),
        (Some(from), Some(to)) if from <= to && from < len => {
            Asked::Part(from..to.saturating_add(1).min(len))
        }
        (Some(from), None) if last.is_empty() && from >= len => Asked::Unsatisfiable,
        (Some(from), Some(to)) if from <= to => Asked::Unsatisfiable,
        _ => Asked::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (header, expected) in [
            ("bytes=0-", Asked::Part(0..10)),
            ("bytes=3-5", Asked::Part(3..6)),
            ("bytes=3-99", Asked::Part(3..10)),
            ("bytes=9-9", Asked::Part(9..10)),
            ("bytes=-4", Asked::Part(6..10)),
            ("bytes=-40", Asked::Part(0..10)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=10-12", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=5-3", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("bytes=", Asked::All),
            ("lines=1-2", Asked::All),
        ] {
            assert_eq!(parse(Some(header), 10), expected, "{header}");
        }
        assert_eq!(parse(None, 10), Asked::All);
    }
}
