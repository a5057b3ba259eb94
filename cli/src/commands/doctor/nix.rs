//! Nix itself.

use granary_client::nix_setup::{NixSettings, nix_version};

use super::Findings;
use crate::nix_version::number;

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
