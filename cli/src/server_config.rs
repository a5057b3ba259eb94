//! The configuration file of `granary serve`. Without one, everything is as usual.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use granary_http::Issuers;
use granary_http::config::{OidcConfig, TokenConfig};
use granary_http::token::Verifier;
use serde::Deserialize;

use crate::failure::{Context, Failure};

/// Its name in a data directory.
const FILE: &str = "config.toml";

/// The configuration file, as far as it is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    tokens: TokenConfig,
    oidc: Vec<OidcConfig>,
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
        let mut config: Self = toml::from_str(&text).context(context)?;
        config.dir = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
