//! Tokens: JWTs signed with HS256 that say what their bearer may do to which caches.
//!
//! ```json
//! {"sub": "root", "jti": "…", "iat": 1760000000, "granary": {"caches": {"*": ["pull", "push"]}}}
//! ```
//!
//! `exp` and `nbf` count where they are given, with a minute of leeway for clocks. Cache patterns
//! are names in which `*` stands for any characters; what any matching pattern permits is
//! permitted.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use granary_api::Permission;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 60;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    granary: Grants,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Grants {
    caches: BTreeMap<String, Vec<Permission>>,
}

impl Claims {
    /// A token that may do everything, for ever.
    pub fn root(id: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let caches = [("*".to_owned(), Permission::ALL.to_vec())].into();
        Self { sub: "root".to_owned(), jti: Some(id), iat: Some(now), granary: Grants { caches } }
    }

    /// Whose token it is.
    pub fn subject(&self) -> &str {
        &self.sub
    }

    /// Whether the bearer may do this to that cache.
    pub fn permit(&self, permission: Permission, cache: &str) -> bool {
        let caches = self.granary.caches.iter();
        caches
            .filter(|(pattern, _)| matches(pattern.as_bytes(), cache.as_bytes()))
            .any(|(_, permissions)| permissions.contains(&permission))
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any characters.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, swallowed)) = star {
            star = Some((at, swallowed + 1));
            p = at + 1;
            t = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("this needs a token: send it as the Basic password (netrc) or as Bearer")]
    NoToken,
    /// The token is not one of this server's.
    #[error("the token is not valid here")]
    Invalid,
    /// It was valid once.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// It does not permit this.
    #[error("the token does not permit this on that cache")]
    Forbidden,
}

/// Signs tokens.
pub fn sign(secret: &[u8], claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header::new(Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret))
}

/// Checks tokens.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl Verifier {
    /// Checks tokens signed with this secret.
    pub fn new(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { key: DecodingKey::from_secret(secret), validation }
    }

    /// The claims of a token.
    pub fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        use jsonwebtoken::errors::ErrorKind;
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        data.map(|data| data.claims).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Refusal::Expired,
            _ => Refusal::Invalid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "any", true),
            ("alice-*", "alice-ci", true),
            ("alice-*", "alice", false),
            ("alice-*", "malice-ci", false),
            ("*-ci", "a-b-ci", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_token_is_believed_only_with_its_secret_and_algorithm() {
        let token = sign(b"one secret", &Claims::root("1".to_owned())).unwrap();
        assert!(Verifier::new(b"one secret").verify(&token).is_ok());
        assert_eq!(Verifier::new(b"another").verify(&token).err(), Some(Refusal::Invalid));
        let mut parts: Vec<&str> = token.split('.').collect();
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        parts[0] = none;
        let unsigned = format!("{none}.{}.", parts[1]);
        for forged in [parts.join("."), unsigned, String::new(), "a.b.c".to_owned()] {
            assert_eq!(Verifier::new(b"one secret").verify(&forged).err(), Some(Refusal::Invalid));
        }
    }
}
