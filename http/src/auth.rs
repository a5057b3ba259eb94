//! Who asks, and what they may do.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_api::Permission;

use crate::token::{Claims, Refusal, Verifier};

/// Tells who sends a request.
pub struct Auth {
    verifier: Verifier,
}

/// Whoever sends a request.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Somebody without a token.
    Anonymous,
    /// Somebody whose token is not believed.
    Refused(Refusal),
    /// The bearer of a token.
    Bearer(Claims),
}

impl Auth {
    /// Believes the tokens that the verifier believes.
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier }
    }

    /// Who sends a request with these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Caller {
        let Some(token) = token_of(headers) else { return Caller::Anonymous };
        match self.verifier.verify(&token) {
            Ok(claims) => Caller::Bearer(claims),
            Err(refusal) => Caller::Refused(refusal),
        }
    }
}

impl Caller {
    /// Lets the caller do this to the cache of that name, or says why not.
    pub(crate) fn require(&self, permission: Permission, cache: &str) -> Result<(), Refusal> {
        match self {
            Self::Anonymous => Err(Refusal::NoToken),
            Self::Refused(refusal) => Err(*refusal),
            Self::Bearer(claims) if claims.permit(permission, cache) => Ok(()),
            Self::Bearer(_) => Err(Refusal::Forbidden),
        }
    }

    /// Whether the caller may do this to the cache of that name.
    pub(crate) fn may(&self, permission: Permission, cache: &str) -> bool {
        self.require(permission, cache).is_ok()
    }

    /// The subject of the caller's token.
    pub(crate) fn subject(&self) -> Option<&str> {
        match self {
            Self::Bearer(claims) => Some(claims.subject()),
            _ => None,
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

    #[test]
    fn the_token_may_come_as_bearer_or_as_basic_password() {
        let auth = Auth::new(Verifier::new(b"s"));
        let token = crate::token::sign(b"s", &Claims::root("1".to_owned())).unwrap();
        let basic = format!("Basic {}", STANDARD.encode(format!("anyone:{token}")));
        for value in [format!("Bearer {token}"), format!("bearer {token}"), basic] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert!(auth.caller(&headers).may(Permission::Push, "default"));
        }
        let refused = auth.caller(&HeaderMap::new()).require(Permission::Push, "default");
        assert_eq!(refused, Err(Refusal::NoToken));
    }
}
