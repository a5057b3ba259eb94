//! Fetching an issuer's keys: the discovery document (OpenID Connect Discovery 1.0, section 4) says
//! where they are, and a JWK set (RFC 7517) holds them.

use std::error::Error;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use serde::Deserialize;

use crate::token::VerifyingKey;

/// A request that waits for keys waits no longer than this.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// GitHub's keys take 8 KB.
const MAX_BODY: usize = 1024 * 1024;
/// A token without `kid` is held against each.
const MAX_KEYS: usize = 64;

/// Why keys were not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{url}: {source}")]
    Http { url: String, source: reqwest::Error },
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} answered with more than {MAX_BODY} bytes")]
    TooLong { url: String },
    #[error("{url}: {source}")]
    Json { url: String, source: serde_json::Error },
    #[error("{url} speaks for {found}")]
    OtherIssuer { url: String, found: String },
    #[error("{url} has no key for RS256, ES256 or EdDSA")]
    NoKeys { url: String },
}

impl FetchError {
    /// The error with all its causes: reqwest's own text leaves them out.
    pub(crate) fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source().and_then(Error::source);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

/// What fetches.
pub(crate) fn client() -> Result<Client, reqwest::Error> {
    // Another part of the program may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(Policy::limited(3))
        .user_agent(concat!("granary/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// An issuer's keys, and the text that they were read from.
pub(crate) async fn keys(
    client: &Client,
    issuer: &str,
    jwks_url: Option<&str>,
) -> Result<(Vec<VerifyingKey>, String), FetchError> {
    let url = match jwks_url {
        Some(url) => url.to_owned(),
        None => discover(client, issuer).await?,
    };
    let body = get(client, &url).await?;
    let keys = parse(&body).map_err(|source| FetchError::Json { url: url.clone(), source })?;
    if keys.is_empty() {
        return Err(FetchError::NoKeys { url });
    }
    Ok((keys, body))
}

async fn discover(client: &Client, issuer: &str) -> Result<String, FetchError> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
        jwks_uri: String,
    }
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let body = get(client, &url).await?;
    let found: Result<Discovery, _> = serde_json::from_str(&body);
    let found = found.map_err(|source| FetchError::Json { url: url.clone(), source })?;
    match found.issuer == issuer {
        true => Ok(found.jwks_uri),
        false => Err(FetchError::OtherIssuer { url, found: found.issuer }),
    }
}

async fn get(client: &Client, url: &str) -> Result<String, FetchError> {
    // The address is told once, by the error of ours.
    let failed = |source: reqwest::Error| FetchError::Http {
        url: url.to_owned(),
        source: source.without_url(),
    };
    let mut response = client.get(url).send().await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        return Err(FetchError::Status { url: url.to_owned(), status });
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > MAX_BODY {
            return Err(FetchError::TooLong { url: url.to_owned() });
        }
        body.extend_from_slice(&piece);
    }
    // What is not UTF-8 is not JSON, and fails as such.
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The keys of a JWK set that can be used here. Others are passed over, as RFC 7517 (section 5)
/// says.
pub(crate) fn parse(text: &str) -> Result<Vec<VerifyingKey>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_str(text)?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        signs.then(|| VerifyingKey::from_jwk(&jwk).ok()).flatten()
    });
    Ok(keys.take(MAX_KEYS).collect())
}
