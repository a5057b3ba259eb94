//! The parts of the configuration file that say whose tokens are believed.
//!
//! ```toml
//! [tokens]
//! hs256_secret_files = ["attic-secret"]      # base64
//! public_key_files = ["ci.pem"]
//! issuer = "https://tokens.example.org"      # what tokens of these keys must carry
//! audience = "granary"
//!
//! [[oidc]]
//! issuer = "https://token.actions.githubusercontent.com"
//! audience = "https://cache.example.org"
//! [[oidc.grant]]
//! claims = { repository = "org/*", ref = "refs/heads/main" }
//! caches = { "ci-*" = ["pull", "push"] }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use granary_api::{Permission, duration};
use serde::{Deserialize, Deserializer};

use crate::token::{Bound, KeyError, VerifyingKey};

/// `[tokens]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// Files with further secrets of HS256, as base64.
    pub hs256_secret_files: Vec<PathBuf>,
    /// Files with public keys, as PEM.
    pub public_key_files: Vec<PathBuf>,
    /// The `iss` that tokens of these keys must carry.
    pub issuer: Option<String>,
    /// The `aud` that tokens of these keys must carry.
    pub audience: Option<String>,
}

impl TokenConfig {
    /// Reads the keys. Relative paths start at `dir`.
    pub fn keys(&self, dir: &Path) -> Result<Vec<VerifyingKey>, KeyError> {
        let secrets = self.hs256_secret_files.iter();
        let secrets = secrets.map(|path| VerifyingKey::from_secret_file(&dir.join(path)));
        let public = self.public_key_files.iter();
        secrets.chain(public.map(|path| VerifyingKey::from_public_file(&dir.join(path)))).collect()
    }

    /// What tokens of these keys must carry.
    pub fn bound(&self) -> Bound {
        Bound { issuer: self.issuer.clone(), audience: self.audience.clone() }
    }
}

/// `[[oidc]]`: an issuer whose identity tokens are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Its `iss`: an address below which its discovery document lies.
    pub issuer: String,
    /// The `aud` that its tokens must carry.
    pub audience: String,
    /// Where its keys are; found by discovery if absent.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// The claim that says whose token it is.
    #[serde(default = "sub")]
    pub subject_claim: String,
    /// How long the tokens live that are given for its tokens.
    #[serde(default = "hour", deserialize_with = "exchange_validity")]
    pub token_validity: u64,
    /// What its tokens permit.
    #[serde(rename = "grant")]
    pub grants: Vec<GrantConfig>,
}

/// `[[oidc.grant]]`: what tokens permit whose claims fit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Patterns by claim. All must fit.
    #[serde(deserialize_with = "some_claims")]
    pub claims: BTreeMap<String, String>,
    /// Permissions by pattern of cache names.
    pub caches: BTreeMap<String, Vec<Permission>>,
}

const HOUR: u64 = 3600;
/// Tokens that are given without anybody looking should not outlive a day's work.
const LONGEST_EXCHANGE: u64 = 24 * HOUR;

fn sub() -> String {
    "sub".to_owned()
}

fn hour() -> u64 {
    HOUR
}

fn exchange_validity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    use serde::de::Error;
    let text = String::deserialize(deserializer)?;
    match duration::parse(&text).map_err(Error::custom)? {
        seconds @ 60..=LONGEST_EXCHANGE => Ok(seconds),
        _ => Err(Error::custom("token_validity must be between 1m and 24h")),
    }
}

/// Somebody who forgets the claims must not let in everybody whom the issuer knows: at GitHub, that
/// is everybody.
fn some_claims<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let claims = BTreeMap::deserialize(deserializer)?;
    if claims.is_empty() {
        let text = "claims must name at least one claim; `sub = \"*\"` lets in all of the issuer's";
        return Err(serde::de::Error::custom(text));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        tokens: TokenConfig,
        #[serde(default)]
        oidc: Vec<OidcConfig>,
    }

    const OIDC: &str = "[[oidc]]\nissuer = 'https://a'\naudience = 'b'\n";

    #[test]
    fn a_whole_file_is_read() {
        let text = format!(
            "[tokens]\nhs256_secret_files = ['s']\nissuer = 'i'\n{OIDC}token_validity = '2h'\n\
             [[oidc.grant]]\nclaims = {{ repository = 'org/*' }}\n\
             caches = {{ 'ci-*' = ['pull', 'configure-retention'] }}\n"
        );
        let file: File = toml::from_str(&text).unwrap();
        assert_eq!(file.tokens.bound().issuer.as_deref(), Some("i"));
        assert_eq!((file.oidc[0].token_validity, &*file.oidc[0].subject_claim), (7200, "sub"));
        let grant = &file.oidc[0].grants[0];
        assert_eq!(grant.caches["ci-*"], [Permission::Pull, Permission::ConfigureRetention]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let grant = "[[oidc.grant]]\nclaims = { a = 'b' }\n";
        for (text, named) in [
            ("[tokens]\nhs256_secret_file = []\n".to_owned(), "hs256_secret_file"),
            ("[token]\n".to_owned(), "token"),
            (format!("{OIDC}jwks = 'x'\n{grant}caches = {{}}\n"), "jwks"),
            (OIDC.to_owned(), "grant"),
            ("[[oidc]]\nissuer = 'a'\n".to_owned(), "audience"),
            (format!("{OIDC}{grant}cache = {{}}\n"), "cache"),
            (format!("{OIDC}{grant}caches = {{ x = ['pul'] }}\n"), "pul"),
            (format!("{OIDC}[[oidc.grant]]\nclaims = {{}}\ncaches = {{}}\n"), "at least one claim"),
            (format!("{OIDC}token_validity = '2d'\n{grant}caches = {{}}\n"), "24h"),
            (format!("{OIDC}token_validity = 'long'\n{grant}caches = {{}}\n"), "long"),
        ] {
            let error = toml::from_str::<File>(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
