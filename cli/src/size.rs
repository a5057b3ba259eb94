//! Sizes as people write them: `512MiB`, or `512M`, which means the same.

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
