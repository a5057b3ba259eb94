//! Which Nix it is.

/// `nix (Nix) 2.34.8` to 2 and 34. Lix writes its own version the same way.
pub fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.rsplit(' ').next()?.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nix_and_lix_write_them() {
        for (text, expected) in [
            ("nix (Nix) 2.8.0", Some((2, 8))),
            ("nix (Nix) 2.35pre20260801_abc", Some((2, 35))),
            ("nix (Lix, like Nix) 2.93.3", Some((2, 93))),
            ("nix", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
