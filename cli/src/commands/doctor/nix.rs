//! Nix itself.

use granary_client::nix_setup::{NixSettings, nix_version};

use super::Findings;

/// The oldest Nix that Granary is tested with.
const OLDEST: (u32, u32) = (2, 8);

/// Looks, and hands Nix's settings on.
pub fn look(findings: &mut Findings) -> Option<NixSettings> {
    match nix_version() {
        Ok(version) => match number(&version) {
            Some(number) if number < OLDEST => {
                findings.warn("nix", format!("{version} is older than 2.8: update it"));
            }
            _ => findings.ok("nix", version),
        },
        Err(error) => {
            findings.error("nix", &error);
            return None;
        }
    }
    let settings = match NixSettings::of_user() {
        Ok(settings) => settings,
        Err(error) => {
            findings.error("nix.conf", &error);
            return None;
        }
    };
    if settings.switch("substitute") == Some(false) {
        findings.fail("nix.conf", "substitute = false: Nix asks no cache at all; remove it");
    }
    if settings.switch("require-sigs") == Some(false) {
        let text = "require-sigs = false: Nix takes paths that nobody signed; remove it";
        findings.warn("nix.conf", text);
    }
    Some(settings)
}

/// `nix (Nix) 2.34.8` to 2 and 34. Lix writes its own version the same way.
fn number(version: &str) -> Option<(u32, u32)> {
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
