//! The configuration file of `granary serve`. Without one, everything is as usual.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use granary_http::Issuers;
use granary_http::config::{OidcConfig, TokenConfig};
use granary_http::token::Verifier;
use serde::Deserialize;

use crate::failure::{Context, Failure};
use crate::keep::KeepConfig;

/// Its name in a data directory.
const FILE: &str = "config.toml";

/// Where the packs lie.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoreConfig {
    url: Option<String>,
}

/// Where the index is. Its URL may hold a password, so it may stand in a file of its own.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct IndexConfig {
    url: Option<String>,
    url_file: Option<PathBuf>,
}

impl fmt::Debug for IndexConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_ref().map(|_| "…");
        f.debug_struct("IndexConfig").field("url", &url).field("url_file", &self.url_file).finish()
    }
}

/// The configuration file, as far as it is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    tokens: TokenConfig,
    oidc: Vec<OidcConfig>,
    store: StoreConfig,
    index: IndexConfig,
    keep: KeepConfig,
    /// Where paths in it start.
    #[serde(skip)]
    dir: PathBuf,
}

impl ServerConfig {
    /// Reads the file that was named, or else the one in the data directory if there is one.
    pub fn load(given: Option<&Path>, data: &Path) -> Result<Self, Failure> {
        let path = given.map_or_else(|| data.join(FILE), Path::to_owned);
        let context = || format!("cannot read the configuration {}", path.display());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && given.is_none() => {
                return Ok(Self::default());
            }
            text => text.context(context)?,
        };
        // An error is shown without the line that it is in: the database's password may be there.
        let mut config: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| line_of(&text, span.start));
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            Failure::new(format!("{}{line}: {}", context(), without_value(error.message())))
        })?;
        config.dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
    }

    /// Where the packs lie, if the configuration says it.
    pub fn store_url(&self) -> Option<&str> {
        self.store.url.as_deref()
    }

    /// Where the index is, if the configuration says it.
    pub fn index_url(&self) -> Result<Option<String>, Failure> {
        match (&self.index.url, &self.index.url_file) {
            (Some(_), Some(_)) => {
                let text = "[index] has both url and url_file in the configuration: keep one";
                Err(Failure::new(text))
            }
            (Some(url), None) => Ok(Some(url.clone())),
            (None, Some(file)) => {
                let path = self.dir.join(file);
                let context = || format!("cannot read the index's URL from {}", path.display());
                let url = fs::read_to_string(&path).context(context)?.trim().to_owned();
                if url.is_empty() {
                    let text =
                        format!("{} is empty: the index's URL belongs there", path.display());
                    return Err(Failure::new(text));
                }
                Ok(Some(url))
            }
            (None, None) => Ok(None),
        }
    }

    /// What caches keep whose owners have not decided, as far as the configuration says it.
    pub fn keep(&self) -> &KeepConfig {
        &self.keep
    }

    /// What believes tokens, as the configuration says. `secret` signs the server's own.
    pub fn verifier(&self, secret: &[u8], data: &Path) -> Result<Verifier, Failure> {
        let context = || "cannot set up tokens as the configuration says".to_owned();
        let keys = self.tokens.keys(&self.dir).context(context)?;
        let issuers = Issuers::open(self.oidc.clone(), &data.join("oidc")).context(context)?;
        let verifier = Verifier::new(secret).with_keys(keys, self.tokens.bound());
        Ok(verifier.with_issuers(issuers))
    }
}

/// What is wrong with a value, without the value.
fn without_value(message: &str) -> String {
    let wanted = message.contains("string \"").then(|| message.rsplit_once("expected ")).flatten();
    wanted.map_or_else(|| message.to_owned(), |(_, wanted)| format!("{wanted} is wanted here"))
}

/// The line of a text in which a byte lies, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const URL: &str = "postgres://granary:hunter2@db/granary";

    fn config(dir: &Path, text: &str) -> Result<ServerConfig, Failure> {
        fs::write(dir.join(FILE), text).unwrap();
        ServerConfig::load(None, dir)
    }

    #[test]
    fn store_and_index_may_be_named_and_the_index_in_a_file_beside() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let none = config(dir, "").unwrap();
        assert_eq!((none.store_url(), none.index_url().unwrap()), (None, None));

        let plain = format!("[store]\nurl = 's3://b/p'\n[index]\nurl = '{URL}'\n");
        let plain = config(dir, &plain).unwrap();
        assert_eq!(plain.store_url(), Some("s3://b/p"));
        assert_eq!(plain.index_url().unwrap().as_deref(), Some(URL));

        fs::write(dir.join("database-url"), format!("{URL}\n")).unwrap();
        let beside = config(dir, "[index]\nurl_file = 'database-url'\n").unwrap();
        assert_eq!(beside.index_url().unwrap().as_deref(), Some(URL), "relative to the file");
        let path = dir.join("database-url");
        let whole = config(dir, &format!("[index]\nurl_file = '{}'\n", path.display())).unwrap();
        assert_eq!(whole.index_url().unwrap().as_deref(), Some(URL));
    }

    #[test]
    fn a_url_that_cannot_be_told_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let both = config(dir, "[index]\nurl = 'sled'\nurl_file = 'x'\n").unwrap();
        assert!(both.index_url().unwrap_err().text().contains("both"));
        let absent = config(dir, "[index]\nurl_file = 'absent'\n").unwrap();
        assert!(absent.index_url().unwrap_err().text().contains("absent"));
        fs::write(dir.join("empty"), "\n").unwrap();
        let empty = config(dir, "[index]\nurl_file = 'empty'\n").unwrap();
        assert!(empty.index_url().unwrap_err().text().contains("empty is empty"));
        assert!(config(dir, "[store]\nurls = 'x'\n").unwrap_err().text().contains("urls"));
    }

    #[test]
    fn what_is_kept_may_be_said() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let said = config(dir, "[keep]\nretention = '90d'\nmax_size = '2TiB'\n").unwrap();
        assert_ne!(said.keep(), &KeepConfig::default());
        for bad in ["retention = 90", "retention = '0s'", "max_size = 'much'", "size = '1TiB'"] {
            let failure = config(dir, &format!("[keep]\n{bad}\n")).unwrap_err();
            assert!(failure.text().contains("line 2"), "{}", failure.text());
        }
    }

    #[test]
    fn no_password_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let good = config(dir, &format!("[index]\nurl = '{URL}'\n")).unwrap();
        assert!(!format!("{good:?}").contains("hunter2"));
        for bad in [
            format!("[index]\nurl = '{URL}\n"),
            format!("[index]\nurls = '{URL}'\n"),
            format!("[index]\nurl = '{URL}' x\n"),
            format!("[index]\nurl_file = ['{URL}']\n"),
            format!("index = '{URL}'\n"),
        ] {
            let text = config(dir, &bad).unwrap_err().text();
            assert!(text.contains("line ") && text.contains(FILE), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_and_a_named_file_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(ServerConfig::load(None, dir).is_ok());
        assert!(ServerConfig::load(Some(&dir.join("none")), dir).is_err());
        fs::write(dir.join(FILE), "[tokens]\nissuers = 'x'\n").unwrap();
        let failure = format!("{:?}", ServerConfig::load(None, dir).unwrap_err());
        assert!(failure.contains("issuers") && failure.contains(FILE), "{failure}");
    }
}
