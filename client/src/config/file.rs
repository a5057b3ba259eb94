//! The configuration file.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use castore::durable::write_file;
use serde::{Deserialize, Serialize};

use super::Error;

/// The file, as it is written.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server that is meant when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The servers, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<String, ServerEntry>,
}

/// A server, as it is written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// Its address.
    pub url: String,
    /// The token to show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Where the file is, whether it exists or not.
pub fn config_path() -> Result<PathBuf, Error> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("granary/config.toml"))
        .ok_or(Error::NoHome)
}

impl Config {
    /// Reads the file. One that is not there is empty.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
            let message = error.message();
            // `invalid type: string "…", expected …` quotes a value, which may be a token.
            let message = match message.split_once(", expected ") {
                Some((found, expected)) if found.starts_with("invalid") => {
                    format!("expected {expected}")
                }
                _ => message.to_owned(),
            };
            Error::Syntax { path: path.to_owned(), line, message }
        })
    }

    /// What to tell who has left the file open to others.
    pub fn exposed(path: &Path) -> Option<String> {
        let mode = fs::metadata(path).ok()?.permissions().mode();
        (mode & 0o077 != 0).then(|| {
            let path = path.display();
            format!("others can read the tokens in {path}: run chmod 600 {path}")
        })
    }

    /// The names of the servers, for messages.
    pub(super) fn names(&self) -> String {
        self.servers.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Changes the file, durably and whole; two that do it at once do it one after the other.
pub fn update(path: &Path, change: impl FnOnce(&mut Config)) -> Result<(), Error> {
    let context = |source| Error::Write { path: path.to_owned(), source };
    // A link, as from a repository of dotfiles, stays one.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = real.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(context)?;
    // Held until the end of this function.
    let lock = File::open(dir).map_err(context)?;
    lock.lock().map_err(context)?;
    let mut config = Config::load(&real)?;
    change(&mut config);
    let text = toml::to_string(&config).map_err(io::Error::other).map_err(context)?;
    write_file(&real, text.as_bytes(), 0o600).map_err(context)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn entry(token: &str) -> ServerEntry {
        ServerEntry { url: "https://x".to_owned(), token: Some(token.to_owned()) }
    }

    #[test]
    fn what_is_written_is_read_and_is_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/granary/config.toml");
        assert!(Config::load(&path).unwrap() == Config::default(), "nothing yet");
        update(&path, |config| {
            config.default = Some("team".to_owned());
            config.servers.insert("team".to_owned(), entry("sesame"));
        })
        .unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.default.as_deref(), Some("team"));
        assert_eq!(config.servers["team"].token.as_deref(), Some("sesame"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(Config::exposed(&path), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Config::exposed(&path).unwrap().contains("chmod 600"));
    }

    #[test]
    fn logins_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        thread::scope(|scope| {
            for thread in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    update(path, |config| {
                        config.servers.insert(format!("s{thread}"), entry("t"));
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(Config::load(&path).unwrap().servers.len(), 8);
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        update(&link, |config| config.default = Some("x".to_owned())).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("default"));
    }

    #[test]
    fn what_is_not_understood_is_told_by_line_and_without_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let cases = [
            ("\n[servers.a]\nurl = \"https://x\"\ntokn = \"sesame\"\n", 4, "unknown field `tokn`"),
            ("\n\n[servers.a]\ntoken = \"sesame\"\n", 3, "missing field `url`"),
            ("default = \"a\"\n[servers]\na = \"sesame\"\n", 3, "expected"),
            ("[servers.a]\nurl = \"https://x\"\ntoken = sesame\n", 3, ""),
            ("default = \"a\n", 1, ""),
        ];
        for (text, expected_line, expected) in cases {
            fs::write(&path, text).unwrap();
            let error = Config::load(&path).err().unwrap();
            let Error::Syntax { line, message, .. } = &error else { panic!("{error}") };
            assert_eq!(*line, expected_line, "{error}");
            assert!(message.contains(expected), "{error}");
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
    }
}
