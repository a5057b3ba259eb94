//! Who asks, and what they may do.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_api::{IssuedToken, Permission};
use narbridge::Revocations;
use narbridge::secrets::{SecretError, random};
use tokio::task::JoinSet;

use crate::token::{Claims, Refusal, SigningKey, Verified, Verifier, now};

/// Tells who sends a request.
pub struct Auth {
    own: SigningKey,
    verifier: Verifier,
    revocations: Arc<Revocations>,
}

/// Whoever sends a request.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Somebody without a token.
    Anonymous,
    /// Somebody whose token is not believed.
    Refused(Refusal),
    /// The bearer of a token.
    Bearer(Arc<Verified>),
}

/// Why no token was given for an identity token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The caller has no identity token that is believed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What the caller has is not an identity token.
    #[error("only identity tokens of OIDC issuers are exchanged, and this is a token already")]
    NotIdentity,
    /// No id could be made.
    #[error(transparent)]
    Random(#[from] SecretError),
    /// Signing failed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Auth {
    /// Believes the tokens that the verifier believes and that are not void. The server's own are
    /// signed with `secret`.
    pub fn new(secret: &[u8], verifier: Verifier, revocations: Arc<Revocations>) -> Self {
        Self { own: SigningKey::from_secret(secret), verifier, revocations }
    }

    /// Who sends a request with these headers.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Caller {
        let Some(token) = token_of(headers) else { return Caller::Anonymous };
        match self.verifier.verify(&token).await {
            Ok(token) if self.is_revoked(&token.claims) => Caller::Refused(Refusal::Revoked),
            Ok(token) => Caller::Bearer(token),
            Err(refusal) => Caller::Refused(refusal),
        }
    }

    fn is_revoked(&self, claims: &Claims) -> bool {
        self.revocations.is_revoked(claims.id.as_deref(), &claims.subject, claims.issued)
    }

    /// A token of the server's own with what the caller's identity token permits.
    pub(crate) fn exchange(&self, caller: &Caller) -> Result<IssuedToken, ExchangeError> {
        let token = caller.token()?.ok_or(Refusal::NoToken)?;
        let validity = token.exchange.ok_or(ExchangeError::NotIdentity)?;
        let Claims { subject, grants, .. } = &token.claims;
        if grants.are_none() {
            return Err(Refusal::NoGrant.into());
        }
        let mut claims = Claims::new(subject, new_id()?, grants.clone());
        let expires = now() + validity;
        claims.expires = Some(expires);
        Ok(IssuedToken { token: self.own.sign(&claims)?, expires })
    }

    /// Keeps the keys of OIDC issuers fresh for as long as the set lives.
    pub(crate) fn keep_keys_fresh(&self) -> JoinSet<()> {
        self.verifier.issuers().keep_fresh()
    }
}

/// A new id for a token.
pub fn new_id() -> Result<String, SecretError> {
    Ok(format!("{:032x}", u128::from_be_bytes(random()?)))
}

impl Caller {
    /// Lets the caller do this to the cache of that name, or says why not.
    pub(crate) fn require(&self, permission: Permission, cache: &str) -> Result<(), Refusal> {
        match self.claims()? {
            None => Err(Refusal::NoToken),
            Some(claims) if claims.permit(permission, cache) => Ok(()),
            Some(_) => Err(Refusal::Forbidden),
        }
    }

    /// Whether the caller may do this to the cache of that name.
    pub(crate) fn may(&self, permission: Permission, cache: &str) -> bool {
        self.require(permission, cache).is_ok()
    }

    /// Lets the caller look after the server itself, or says why not: that takes a token which
    /// permits everything everywhere.
    pub(crate) fn require_all(&self) -> Result<(), Refusal> {
        match self.claims()? {
            None => Err(Refusal::NoToken),
            Some(claims) if claims.grants.are_all() => Ok(()),
            Some(_) => Err(Refusal::NotAll),
        }
    }

    /// The subject of the caller's token.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.claims().ok().flatten().map(Claims::subject)
    }

    /// What the caller's token says; `None` without a token.
    pub(crate) fn claims(&self) -> Result<Option<&Claims>, Refusal> {
        Ok(self.token()?.map(|token| &token.claims))
    }

    fn token(&self) -> Result<Option<&Verified>, Refusal> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Refused(refusal) => Err(*refusal),
            Self::Bearer(token) => Ok(Some(token)),
        }
    }
}

/// The token of a request: a Bearer token, or the password of Basic.
fn token_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::sign;
    use castore::Options;
    use narbridge::Storehouse;

    const SECRET: [u8; 32] = [7; 32];

    fn bearer(token: &str) -> HeaderMap {
        let value = format!("Bearer {token}").parse().unwrap();
        [(header::AUTHORIZATION, value)].into_iter().collect()
    }

    fn auth(revocations: &Arc<Revocations>) -> Auth {
        Auth::new(&SECRET, Verifier::new(&SECRET), revocations.clone())
    }

    #[tokio::test]
    async fn the_token_may_come_as_bearer_or_as_basic_password() {
        let dir = tempfile::tempdir().unwrap();
        let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        let auth = auth(house.revocations());
        let token = sign(&SECRET, &Claims::root("1".to_owned())).unwrap();
        let basic = format!("Basic {}", STANDARD.encode(format!("anyone:{token}")));
        for value in [format!("Bearer {token}"), format!("bearer {token}"), basic] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert!(auth.caller(&headers).await.may(Permission::Push, "default"));
        }
        let nobody = auth.caller(&HeaderMap::new()).await;
        assert_eq!(nobody.require(Permission::Push, "default"), Err(Refusal::NoToken));
    }

    #[tokio::test]
    async fn a_revocation_counts_at_once_also_for_tokens_that_were_just_believed() {
        let dir = tempfile::tempdir().unwrap();
        let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        let (revoked, auth) = (house.revocations(), auth(house.revocations()));
        let token = |subject: &str, id: Option<&str>, issued: Option<u64>| {
            let mut claims = Claims::new(subject, "", crate::token::Grants::all());
            (claims.id, claims.issued) = (id.map(str::to_owned), issued);
            bearer(&sign(&SECRET, &claims).unwrap())
        };
        let one = token("alice", Some("1"), Some(now()));
        let two = token("alice", Some("2"), Some(now()));
        let bare = token("bob", None, None);
        let later = token("bob", None, Some(now() + 30));
        for headers in [&one, &two, &bare, &later] {
            assert_eq!(auth.caller(headers).await.require_all(), Ok(()));
        }
        revoked.revoke_id("1").unwrap();
        revoked.revoke_subject("bob").unwrap();
        for (headers, expected) in [
            (&one, Err(Refusal::Revoked)),
            (&two, Ok(())),
            (&bare, Err(Refusal::Revoked)),
            (&later, Ok(())),
        ] {
            assert_eq!(auth.caller(headers).await.require_all(), expected);
        }
    }
}
