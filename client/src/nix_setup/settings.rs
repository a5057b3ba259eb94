//! Nix's settings as Nix itself sees them, whatever files and variables they come from.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixSettings(BTreeMap<String, Value>);

#[derive(Deserialize)]
struct Setting {
    #[serde(default)]
    value: Value,
}

impl NixSettings {
    /// The settings of this user.
    pub fn of_user() -> Result<Self, Error> {
        Self::ask(&[])
    }

    /// The settings of the system, which a daemon goes by.
    pub fn of_system() -> Result<Self, Error> {
        Self::ask(&["NIX_USER_CONF_FILES", "NIX_CONFIG"])
    }

    /// Asks Nix, with those variables emptied.
    fn ask(emptied: &[&str]) -> Result<Self, Error> {
        // The second is what it was called up to 2.19.
        let mut failed = String::new();
        for command in [&["config", "show"][..], &["show-config"]] {
            let output = run(command, emptied)?;
            if output.status.success() {
                return Self::parse(&output.stdout);
            }
            failed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        }
        Err(Error::Settings(failed))
    }

    fn parse(json: &[u8]) -> Result<Self, Error> {
        let settings: BTreeMap<String, Setting> = serde_json::from_slice(json)
            .map_err(|error| Error::Settings(format!("unexpected answer: {error}")))?;
        Ok(Self(settings.into_iter().map(|(name, setting)| (name, setting.value)).collect()))
    }

    /// The words of a list.
    pub fn words(&self, name: &str) -> Vec<&str> {
        match self.0.get(name) {
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => text.split_whitespace().collect(),
            _ => Vec::new(),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A switch.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// Whether a daemon with these settings lets a user choose substituters.
    pub fn trusts(&self, user: &str, groups: &[String]) -> bool {
        self.words("trusted-users").iter().any(|word| match word.strip_prefix('@') {
            Some(group) => groups.iter().any(|known| known == group),
            None => *word == "*" || *word == user,
        })
    }

    /// Whether a substituter is among those of a list, with or without a slash at its end.
    pub fn lists(&self, name: &str, url: &str) -> bool {
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        self.words(name).iter().any(|word| plain(word) == plain(url))
    }
}

fn run(arguments: &[&str], emptied: &[&str]) -> Result<Output, Error> {
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command"]).args(arguments).arg("--json");
    for name in emptied {
        nix.env(name, "");
    }
    nix.stdin(Stdio::null()).output().map_err(Error::NoNix)
}

/// What `nix --version` says, such as `nix (Nix) 2.34.8`.
pub fn nix_version() -> Result<String, Error> {
    let output = Command::new("nix").arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(Error::NoNix)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(Error::Settings(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_nix_writes_them() {
        let json = br#"{"substituters":{"defaultValue":[],"value":["https://x/a/","https://y"]},
            "trusted-users":{"value":["root","alice","@wheel"]},
            "netrc-file":{"value":"/etc/nix/netrc"},"require-sigs":{"value":true},"odd":{}}"#;
        let settings = NixSettings::parse(json).unwrap();
        assert!(settings.lists("substituters", "https://x/a"));
        assert!(settings.lists("substituters", "https://y/"));
        assert!(!settings.lists("substituters", "https://x"));
        assert_eq!(settings.text("netrc-file"), Some("/etc/nix/netrc"));
        assert_eq!(settings.switch("require-sigs"), Some(true));
        assert!(settings.trusts("alice", &[]));
        assert!(!settings.trusts("bob", &["users".to_owned()]));
        assert!(settings.trusts("bob", &["users".to_owned(), "wheel".to_owned()]));
    }
}
