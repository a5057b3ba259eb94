//! What a token says.
//!
//! ```json
//! {"sub": "root", "jti": "…", "iat": 1760000000, "exp": 1760003600,
//!  "granary": {"caches": {"*": ["pull", "push"]}}}
//! ```
//!
//! `iat`, `nbf` and `exp` count where they are given (RFC 7519, section 4.1), with a minute of
//! leeway for clocks. Attic's claim is understood too, so that its tokens keep working:
//!
//! ```json
//! {"https://jwt.attic.rs/v1": {"caches": {"alice-*": {"r": 1, "w": 1, "cc": 1}}}}
//! ```

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use granary_api::Permission;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::grants::Grants;

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 60;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Claims {
    /// Whose token it is.
    pub subject: String,
    /// What it is revoked by.
    pub id: Option<String>,
    /// When it was made, in seconds since 1970, as all times here.
    pub issued: Option<u64>,
    /// From when on it is valid.
    pub not_before: Option<u64>,
    /// Until when it is valid.
    pub expires: Option<u64>,
    /// Who made it.
    pub issuer: Option<String>,
    /// Whom it is meant for.
    pub audience: Vec<String>,
    /// What it permits.
    pub grants: Grants,
}

impl Claims {
    /// A token made now, without an end.
    pub fn new(subject: impl Into<String>, id: impl Into<String>, grants: Grants) -> Self {
        Self {
            subject: subject.into(),
            id: Some(id.into()),
            issued: Some(now()),
            not_before: None,
            expires: None,
            issuer: None,
            audience: Vec::new(),
            grants,
        }
    }

    /// A token that may do everything, for ever.
    pub fn root(id: String) -> Self {
        Self::new("root", id, Grants::all())
    }

    /// Whose token it is.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether the bearer may do this to that cache.
    pub fn permit(&self, permission: Permission, cache: &str) -> bool {
        self.grants.permit(permission, cache)
    }

    /// Whether the token is valid at that time.
    pub fn check_time(&self, now: u64) -> Result<(), Refusal> {
        let ahead = now.saturating_add(LEEWAY);
        if self.expires.is_some_and(|end| end.saturating_add(LEEWAY) <= now) {
            return Err(Refusal::Expired);
        }
        if [self.not_before, self.issued].into_iter().flatten().any(|start| start > ahead) {
            return Err(Refusal::NotYet);
        }
        Ok(())
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The claims as JSON has them.
#[derive(Deserialize, Serialize)]
struct Wire {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<Date>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Date>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<Date>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<OneOrMany>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    granary: Option<GranaryClaim>,
    #[serde(rename = "https://jwt.attic.rs/v1", default, skip_serializing)]
    attic: Option<AtticClaim>,
}

/// RFC 7519's NumericDate, which may have a fraction.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Date {
    Whole(u64),
    Fraction(f64),
}

impl From<Date> for u64 {
    // Beyond its ends the cast gives the end; times before 1970 are long past.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn from(date: Date) -> Self {
        match date {
            Date::Whole(seconds) => seconds,
            Date::Fraction(seconds) => seconds as Self,
        }
    }
}

/// `aud` may be a string or a list.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(some: OneOrMany) -> Self {
        match some {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

#[derive(Default, Deserialize, Serialize)]
struct GranaryClaim {
    caches: BTreeMap<String, Vec<Permission>>,
}

#[derive(Deserialize)]
struct AtticClaim {
    #[serde(default)]
    caches: BTreeMap<String, AtticPermissions>,
}

/// Attic's flags: 1 or 0, and 0 where absent.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct AtticPermissions {
    r: Flag,
    w: Flag,
    d: Flag,
    cc: Flag,
    cr: Flag,
    cq: Flag,
    cd: Flag,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Flag {
    Number(u8),
    Bool(bool),
}

impl Default for Flag {
    fn default() -> Self {
        Self::Bool(false)
    }
}

impl AtticPermissions {
    fn permissions(&self) -> impl Iterator<Item = Permission> {
        let flags = [
            (self.r, Permission::Pull),
            (self.w, Permission::Push),
            (self.d, Permission::Delete),
            (self.cc, Permission::Create),
            (self.cr, Permission::Configure),
            (self.cq, Permission::ConfigureRetention),
            (self.cd, Permission::Destroy),
        ];
        flags.into_iter().filter_map(|(flag, permission)| {
            matches!(flag, Flag::Number(1) | Flag::Bool(true)).then_some(permission)
        })
    }
}

impl From<Wire> for Claims {
    fn from(wire: Wire) -> Self {
        let mut grants = Grants::default();
        if let Some(claim) = &wire.granary {
            grants.extend(&claim.caches);
        }
        for (pattern, flags) in wire.attic.iter().flat_map(|attic| &attic.caches) {
            for permission in flags.permissions() {
                grants.add(pattern.as_str(), permission);
            }
        }
        Self {
            subject: wire.sub,
            id: wire.jti,
            issued: wire.iat.map(u64::from),
            not_before: wire.nbf.map(u64::from),
            expires: wire.exp.map(u64::from),
            issuer: wire.iss,
            audience: wire.aud.map(Vec::from).unwrap_or_default(),
            grants,
        }
    }
}

impl From<Claims> for Wire {
    fn from(claims: Claims) -> Self {
        let mut audience = claims.audience;
        let aud = match audience.len() {
            0 => None,
            1 => audience.pop().map(OneOrMany::One),
            _ => Some(OneOrMany::Many(audience)),
        };
        Self {
            sub: claims.subject,
            jti: claims.id,
            iat: claims.issued.map(Date::Whole),
            nbf: claims.not_before.map(Date::Whole),
            exp: claims.expires.map(Date::Whole),
            iss: claims.issuer,
            aud,
            granary: Some(GranaryClaim { caches: claims.grants.by_pattern().clone() }),
            attic: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Claims {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn claims_survive_the_wire() {
        let mut claims = Claims::root("1".to_owned());
        claims.audience = vec!["a".to_owned(), "b".to_owned()];
        claims.expires = Some(claims.issued.unwrap() + 10);
        let text = serde_json::to_string(&claims).unwrap();
        assert_eq!(parse(&text), claims);
    }

    #[test]
    fn attics_flags_permit_what_they_permit_there() {
        for (flag, permission) in [
            ("r", Permission::Pull),
            ("w", Permission::Push),
            ("d", Permission::Delete),
            ("cc", Permission::Create),
            ("cr", Permission::Configure),
            ("cq", Permission::ConfigureRetention),
            ("cd", Permission::Destroy),
        ] {
            let claims = parse(&format!(
                r#"{{"sub":"a","https://jwt.attic.rs/v1":{{"caches":{{"a-*":{{"{flag}":1}}}}}}}}"#
            ));
            for other in Permission::ALL {
                assert_eq!(claims.permit(other, "a-x"), other == permission, "{flag} {other}");
                assert!(!claims.permit(other, "b"), "{flag} {other}");
            }
        }
        let none = parse(r#"{"sub":"a","https://jwt.attic.rs/v1":{"caches":{"*":{"r":0}}}}"#);
        assert!(none.grants.are_none());
    }

    #[test]
    fn a_permission_that_does_not_exist_is_not_passed_over() {
        let text = r#"{"sub":"a","granary":{"caches":{"*":["pul"]}}}"#;
        assert!(serde_json::from_str::<Claims>(text).is_err());
    }

    #[test]
    fn clocks_may_be_a_minute_apart_and_no_more() {
        let now = 1_000_000;
        let mut claims = parse(r#"{"sub":"a","exp":1000000.5,"aud":"x"}"#);
        assert_eq!(claims.check_time(now + 59), Ok(()));
        assert_eq!(claims.check_time(now + 60), Err(Refusal::Expired));
        claims.expires = None;
        for field in [|c: &mut Claims, t| c.issued = t, |c: &mut Claims, t| c.not_before = t] {
            field(&mut claims, Some(now + 60));
            assert_eq!(claims.check_time(now), Ok(()));
            field(&mut claims, Some(now + 61));
            assert_eq!(claims.check_time(now), Err(Refusal::NotYet));
            field(&mut claims, None);
        }
        claims.expires = Some(u64::MAX);
        assert_eq!(claims.check_time(now), Ok(()));
    }
}
