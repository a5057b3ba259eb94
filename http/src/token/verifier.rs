//! Believes tokens, or says why not.
//!
//! A token that was believed is remembered by its digest for a while, so that requests which follow
//! cost a lookup instead of a signature. Time is looked at each time; revocations are the caller's.

use std::sync::Arc;

use castore::Digest;
use serde::Deserialize;

use super::{Claims, Jwt, Refusal, VerifyingKey, now};
use crate::oidc::{Issuers, Trouble};

/// Believed tokens that are remembered, in bytes of the tokens. About 20 000 usual ones.
const REMEMBERED: u64 = 8 * 1024 * 1024;
/// What remembering one takes beside its length, about.
const OVERHEAD: u64 = 200;
/// After so many seconds the signature is looked at again: an issuer may have given up the key.
const RECHECK: u64 = 300;

/// A token that is believed.
#[derive(Debug)]
pub struct Verified {
    /// What it says. An identity token's permissions are those that the configuration grants it.
    pub claims: Claims,
    /// For an identity token: how long a token lives that is given for it, in seconds.
    pub exchange: Option<u64>,
    length: u64,
    until: u64,
}

/// What tokens of keys that are not the server's own must carry.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// Their `iss`.
    pub issuer: Option<String>,
    /// One of their `aud`.
    pub audience: Option<String>,
}

impl Bound {
    fn check(&self, claims: &Claims) -> Result<(), Refusal> {
        if self.issuer.is_some() && self.issuer != claims.issuer {
            return Err(Refusal::Issuer);
        }
        match &self.audience {
            Some(audience) if !claims.audience.contains(audience) => Err(Refusal::Audience),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<Digest, Arc<Verified>> for Weight {
    fn weight(&self, _: &Digest, token: &Arc<Verified>) -> u64 {
        token.length
    }
}

/// Believes tokens, or says why not.
pub struct Verifier {
    own: VerifyingKey,
    others: Vec<VerifyingKey>,
    bound: Bound,
    issuers: Issuers,
    remembered: quick_cache::sync::Cache<Digest, Arc<Verified>, Weight>,
}

/// How far keys that are at hand got with a token.
enum Look<'a> {
    Believed(Verified),
    /// The issuer may have new keys.
    Ask(&'a crate::oidc::Issuer),
}

impl Verifier {
    /// Believes what is signed with the server's own secret.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            own: VerifyingKey::from_secret(secret),
            others: Vec::new(),
            bound: Bound::default(),
            issuers: Issuers::default(),
            remembered: quick_cache::sync::Cache::with_weighter(10_000, REMEMBERED, Weight),
        }
    }

    /// Believes tokens of these keys too, where they carry what they must.
    #[must_use]
    pub fn with_keys(self, others: Vec<VerifyingKey>, bound: Bound) -> Self {
        Self { others, bound, ..self }
    }

    /// Believes identity tokens of these issuers too.
    #[must_use]
    pub fn with_issuers(self, issuers: Issuers) -> Self {
        Self { issuers, ..self }
    }

    /// The issuers of identity tokens.
    pub(crate) fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whether a token is believed. Asks an issuer for new keys where that may help.
    pub async fn verify(&self, token: &str) -> Result<Arc<Verified>, Refusal> {
        self.verify_at(token, now()).await
    }

    pub(super) async fn verify_at(&self, token: &str, now: u64) -> Result<Arc<Verified>, Refusal> {
        let digest = Digest::of(token.as_bytes());
        if let Some(known) = self.remembered.get(&digest).filter(|known| now < known.until) {
            known.claims.check_time(now)?;
            return Ok(known);
        }
        let jwt = Jwt::parse(token)?;
        let verified = match self.look(&jwt)? {
            Look::Believed(verified) => verified,
            Look::Ask(issuer) => {
                issuer.refresh_for_unknown_key().await;
                self.look_again(&jwt)?
            }
        };
        verified.claims.check_time(now)?;
        let (length, until) = (token.len() as u64 + OVERHEAD, now + RECHECK);
        let verified = Arc::new(Verified { length, until, ..verified });
        self.remembered.insert(digest, verified.clone());
        Ok(verified)
    }

    /// The same, with the keys that are at hand.
    pub fn verify_offline(&self, token: &str) -> Result<Verified, Refusal> {
        let verified = self.look_again(&Jwt::parse(token)?)?;
        verified.claims.check_time(now())?;
        Ok(verified)
    }

    fn look(&self, jwt: &Jwt<'_>) -> Result<Look<'_>, Refusal> {
        let own = jwt.is_signed_by(&self.own);
        if own || choose(&self.others, jwt).is_some() {
            let claims: Claims = jwt.claims().map_err(|_| Refusal::Malformed)?;
            if !own {
                self.bound.check(&claims)?;
            }
            return Ok(Look::Believed(Verified { claims, exchange: None, length: 0, until: 0 }));
        }
        let unproven: Unproven = jwt.claims().map_err(|_| Refusal::Malformed)?;
        let issuer = unproven.iss.and_then(|issuer| self.issuers.find(&issuer));
        let issuer = issuer.ok_or(Refusal::NotSigned)?;
        match issuer.verify(jwt) {
            Ok(claims) => {
                let exchange = Some(issuer.token_validity());
                Ok(Look::Believed(Verified { claims, exchange, length: 0, until: 0 }))
            }
            Err(Trouble::UnknownKey | Trouble::NoKeys) => Ok(Look::Ask(issuer)),
            Err(Trouble::Refused(refusal)) => Err(refusal),
        }
    }

    fn look_again(&self, jwt: &Jwt<'_>) -> Result<Verified, Refusal> {
        match self.look(jwt)? {
            Look::Believed(verified) => Ok(verified),
            Look::Ask(issuer) if issuer.has_keys() => Err(Refusal::NotSigned),
            Look::Ask(_) => Err(Refusal::NoKeys),
        }
    }
}

/// Of a token that is not believed yet, whose keys to try.
#[derive(Deserialize)]
struct Unproven {
    #[serde(default)]
    iss: Option<String>,
}

/// The key that has signed the token: the one that it names (`kid`) where it is known, else any of
/// its algorithm.
pub(crate) fn choose<'a>(keys: &'a [VerifyingKey], jwt: &Jwt<'_>) -> Option<&'a VerifyingKey> {
    let named = jwt.header().kid.as_deref();
    let is_named = |key: &&VerifyingKey| named.is_some() && key.id() == named;
    if keys.iter().any(|key| is_named(&key)) {
        return keys.iter().filter(is_named).find(|key| jwt.is_signed_by(key));
    }
    keys.iter().find(|key| jwt.is_signed_by(key))
}
