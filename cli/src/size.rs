//! Sizes as people write them: `512MiB`, or `512M`, which means the same.

/// Writes bytes as a size, in the largest unit that is exact.
pub fn write_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let exact = |shift: u32| bytes >> shift > 0 && bytes.trailing_zeros() >= shift;
    match units.into_iter().find(|(_, shift)| exact(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Reads a size as bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let short = text.strip_suffix("iB").unwrap_or(text);
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((short.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let number: u64 =
        digits.trim().parse().map_err(|_| format!("`{text}` is not a size such as 64GiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (1536, "1536"),
            (512 << 20, "512MiB"),
            (1025 << 30, "1025GiB"),
            (3 << 40, "3TiB"),
        ] {
            assert_eq!(write_size(bytes), text);
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }
}
