//! Identity tokens of others (OpenID Connect): a CI job shows who it is, and the configuration says
//! what that permits, so that the job needs no secret.
//!
//! What an identity token permits comes from the configuration alone: claims of it that look like
//! Granary's own are not listened to. Its keys are fetched ahead of time and kept on disk, so that
//! an issuer that does not answer changes nothing for the keys that are known.

mod fetch;
mod identity;
mod issuer;
mod saved;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

pub(crate) use issuer::{Issuer, Trouble};

use crate::config::OidcConfig;

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// Its address is none.
    #[error("oidc issuer {issuer}: {field} is not an http or https address: {url}")]
    Address {
        /// Which issuer.
        issuer: String,
        /// Which field.
        field: &'static str,
        /// What it holds.
        url: String,
    },
    /// It is there twice.
    #[error("oidc issuer {0} is there twice: one entry with several grants says the same")]
    Twice(String),
    /// There is nothing to fetch keys with.
    #[error("cannot make HTTPS requests for the keys of oidc issuers: {0}")]
    Client(#[from] reqwest::Error),
}

/// The issuers that are trusted.
#[derive(Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

impl Issuers {
    /// The issuers of a configuration, with the keys that were kept in `dir`.
    pub fn open(configs: Vec<OidcConfig>, dir: &Path) -> Result<Self, IssuerError> {
        if configs.is_empty() {
            return Ok(Self::default());
        }
        let client = fetch::client()?;
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for config in configs {
            if issuers.iter().any(|other| other.name() == config.issuer) {
                return Err(IssuerError::Twice(config.issuer));
            }
            issuers.push(Arc::new(Issuer::open(config, client.clone(), dir)?));
        }
        Ok(Self(issuers))
    }

    /// The issuer with that `iss`.
    pub(crate) fn find(&self, name: &str) -> Option<&Issuer> {
        self.0.iter().find(|issuer| issuer.name() == name).map(Arc::as_ref)
    }

    /// Keeps the keys fresh for as long as the set lives.
    pub(crate) fn keep_fresh(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for issuer in &self.0 {
            tasks.spawn(issuer.clone().keep_fresh());
        }
        tasks
    }
}
