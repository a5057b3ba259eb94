//! A JWT, taken apart and not yet believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Header;
use serde::de::DeserializeOwned;

use super::{Refusal, VerifyingKey};

/// The longest token that is looked at. GitHub's have 2 KB.
const MAX_LENGTH: usize = 16 * 1024;

/// A JWT, taken apart and not yet believed.
pub struct Jwt<'a> {
    /// What the signature is over.
    message: &'a str,
    signature: &'a str,
    header: Header,
    payload: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes a token apart.
    pub fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > MAX_LENGTH {
            return Err(Refusal::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::Malformed)?;
        // Fails for `none` too, which is no algorithm of the library's.
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Malformed)?;
        // Nothing that a header may call critical is understood here (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        Ok(Self { message, signature, header, payload })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What it claims.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// Whether that key has signed it.
    pub fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        key.vouches(self.header.alg, self.message, self.signature)
    }
}
