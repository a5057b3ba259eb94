//! From what an identity token claims to what it permits.

use granary_api::pattern::matches;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::OidcConfig;
use crate::token::{Claims, Date, Grants, OneOrMany, Refusal};

/// The claims of an identity token that mean the same everywhere.
#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    aud: Option<OneOrMany>,
    /// Identity tokens must end (OpenID Connect Core 1.0, section 2).
    exp: Date,
    #[serde(default)]
    nbf: Option<Date>,
    #[serde(default)]
    iat: Option<Date>,
    #[serde(default)]
    jti: Option<String>,
}

/// What a token of that issuer says, as if Granary had made it. `host` names the issuer in its
/// subject and id, so that they cannot be mistaken for those of Granary's own tokens.
pub(super) fn claims(
    config: &OidcConfig,
    host: &str,
    claims: &Map<String, Value>,
) -> Result<Claims, Refusal> {
    let registered: Result<Registered, _> = serde_json::from_value(Value::Object(claims.clone()));
    let registered = registered.map_err(|_| Refusal::Malformed)?;
    let audience: Vec<String> = registered.aud.map(Vec::from).unwrap_or_default();
    if !audience.contains(&config.audience) {
        return Err(Refusal::Audience);
    }
    let subject = claims.get(&config.subject_claim).and_then(Value::as_str);
    let subject = subject.ok_or(Refusal::Malformed)?;
    let mut grants = Grants::default();
    for grant in &config.grants {
        let fits = |(name, pattern): (&String, &String)| {
            let value = claims.get(name).and_then(Value::as_str);
            value.is_some_and(|value| matches(pattern, value))
        };
        if grant.claims.iter().all(fits) {
            grants.extend(&grant.caches);
        }
    }
    Ok(Claims {
        subject: format!("oidc:{host}:{subject}"),
        id: registered.jti.map(|id| format!("oidc:{host}:{id}")),
        issued: registered.iat.map(u64::from),
        not_before: registered.nbf.map(u64::from),
        expires: Some(registered.exp.into()),
        issuer: Some(config.issuer.clone()),
        audience,
        grants,
    })
}
