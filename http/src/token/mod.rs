//! Tokens: JWTs (RFC 7519) that say what their bearer may do to which caches.
//!
//! The server signs its own with HS256, and a secret that is derived from its key. Beside them it
//! believes those of other keys that its operator names, and the identity tokens of issuers
//! (OpenID Connect) that its operator trusts.

mod claims;
mod grants;
mod jwt;
mod keys;
mod refusal;
#[cfg(test)]
mod tests;
mod verifier;

pub use claims::{Claims, now};
pub use grants::Grants;
pub use jwt::Jwt;
pub use keys::{KeyError, SigningKey, VerifyingKey, WrongKey, sign};
pub use refusal::Refusal;
pub use verifier::{Bound, Verified, Verifier};

pub(crate) use claims::{Date, OneOrMany};
pub(crate) use verifier::choose;

/// What the server's secret for its own tokens is derived for.
pub const PURPOSE: &str = "granary 2026 sign tokens with HS256";
