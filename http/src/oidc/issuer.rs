//! One issuer: its keys as they were last seen, and when to look again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use reqwest::{Client, Url};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::{IssuerError, fetch, identity, saved};
use crate::config::OidcConfig;
use crate::token::{Claims, Jwt, Refusal, VerifyingKey, choose};

/// How often an issuer's keys are fetched while all is well. Issuers announce keys long before they
/// use them.
const FRESH: Duration = Duration::from_secs(3600);
/// After a failure the next attempt comes so soon, and then after twice that, up to [`FRESH`].
const RETRY: Duration = Duration::from_secs(15);
/// Tokens with unknown keys have the keys fetched at most so often: anybody can make up a key's
/// name.
pub(super) const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

/// Why an identity token is not believed with the keys at hand.
pub(crate) enum Trouble {
    /// Its key is not among them.
    UnknownKey,
    /// There are none.
    NoKeys,
    /// New keys would not help.
    Refused(Refusal),
}

/// An issuer of identity tokens.
pub(crate) struct Issuer {
    config: OidcConfig,
    /// Its name in subjects.
    host: String,
    client: Client,
    file: PathBuf,
    /// The last good keys; empty before the first.
    keys: RwLock<Arc<[VerifyingKey]>>,
    /// When keys were last asked for. Held while they are, so that all who wait for the answer
    /// share it.
    asked: Mutex<Option<Instant>>,
    pub(super) unknown_key_pause: Duration,
}

impl Issuer {
    pub(super) fn open(
        config: OidcConfig,
        client: Client,
        dir: &Path,
    ) -> Result<Self, IssuerError> {
        let url = address(&config.issuer, "issuer", &config.issuer)?;
        if let Some(jwks) = &config.jwks_url {
            address(&config.issuer, "jwks_url", jwks)?;
        }
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // Several issuers may share a host: realms, organisations.
        let host = format!("{host}{}", url.path().trim_end_matches('/'));
        let file = saved::path(dir, &config.issuer);
        let keys = saved::read(&file, &config.issuer).unwrap_or_default();
        Ok(Self {
            config,
            host,
            client,
            file,
            keys: RwLock::new(keys.into()),
            asked: Mutex::default(),
            unknown_key_pause: UNKNOWN_KEY_PAUSE,
        })
    }

    /// Its `iss`.
    pub(crate) fn name(&self) -> &str {
        &self.config.issuer
    }

    /// How long a token lives that is given for one of its tokens, in seconds.
    pub(crate) fn token_validity(&self) -> u64 {
        self.config.token_validity
    }

    /// Whether any key of it is known.
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys().is_empty()
    }

    fn keys(&self) -> Arc<[VerifyingKey]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a token of this issuer says, if it is one.
    pub(crate) fn verify(&self, jwt: &Jwt<'_>) -> Result<Claims, Trouble> {
        let keys = self.keys();
        if keys.is_empty() {
            return Err(Trouble::NoKeys);
        }
        let named = jwt.header().kid.as_deref();
        if choose(&keys, jwt).is_none() {
            let known = named.is_some() && keys.iter().any(|key| key.id() == named);
            return Err(match known {
                true => Trouble::Refused(Refusal::NotSigned),
                false => Trouble::UnknownKey,
            });
        }
        let claims: Map<String, Value> =
            jwt.claims().map_err(|_| Trouble::Refused(Refusal::Malformed))?;
        identity::claims(&self.config, &self.host, &claims).map_err(Trouble::Refused)
    }

    /// Fetches the keys because a token names one that is not known, unless that was done just now.
    pub(crate) async fn refresh_for_unknown_key(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < self.unknown_key_pause) {
            return;
        }
        // Also when nobody waits for the answer any more, the next need not ask at once.
        *asked = Some(Instant::now());
        self.fetch().await;
        *asked = Some(Instant::now());
    }

    async fn refresh(&self) -> bool {
        let mut asked = self.asked.lock().await;
        let good = self.fetch().await;
        *asked = Some(Instant::now());
        good
    }

    /// Fetches the keys and keeps them. What goes wrong leaves those of before.
    async fn fetch(&self) -> bool {
        let issuer = self.config.issuer.as_str();
        let fetched = fetch::keys(&self.client, issuer, self.config.jwks_url.as_deref()).await;
        let (keys, jwks) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                let known = self.keys().len();
                tracing::warn!(
                    issuer,
                    error = error.whole(),
                    known,
                    "the keys of an OIDC issuer were not to be had; those that are known stay"
                );
                return false;
            }
        };
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
        let (file, name) = (self.file.clone(), self.config.issuer.clone());
        let kept = tokio::task::spawn_blocking(move || saved::write(&file, &name, jwks)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(issuer, %error, "the keys of an OIDC issuer were not kept on disk");
        }
        true
    }

    /// Fetches the keys again and again.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        let mut retry = RETRY;
        loop {
            if self.refresh().await {
                retry = RETRY;
                sleep(FRESH).await;
            } else {
                sleep(retry).await;
                retry = (retry * 2).min(FRESH);
            }
        }
    }
}

fn address(issuer: &str, field: &'static str, text: &str) -> Result<Url, IssuerError> {
    let wrong = || IssuerError::Address { issuer: issuer.to_owned(), field, url: text.to_owned() };
    let url = Url::parse(text).map_err(|_| wrong())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(wrong()),
    }
}
