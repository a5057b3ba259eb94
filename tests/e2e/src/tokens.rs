//! Tokens that the server has not made, but has to believe: JWTs (RFC 7519) signed with HS256 and
//! the secret that it derives from its key.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the secret is derived for.
const PURPOSE: &str = "granary 2026 sign tokens with HS256";

/// Every permission there is.
pub const PERMISSIONS: [&str; 8] =
    ["pull", "push", "delete", "pin", "create", "configure", "configure-retention", "destroy"];

/// The secret of the server whose data directory this is.
pub fn secret(data: &Path) -> [u8; 32] {
    let path = data.join("server-key");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let key = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).expect("64 hex digits");
    blake3::derive_key(PURPOSE, &key)
}

/// Signs these claims.
pub fn sign(secret: &[u8], claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let signature = hmac_sha256(secret, signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The claims of a token that grants permissions by patterns of cache names.
pub fn claims(subject: &str, caches: &[(&str, &[&str])]) -> Value {
    let caches: serde_json::Map<String, Value> =
        caches.iter().map(|(pattern, what)| ((*pattern).to_owned(), json!(what))).collect();
    json!({"sub": subject, "iat": now(), "granary": {"caches": caches}})
}

/// A token that grants permissions by patterns of cache names.
pub fn mint(data: &Path, subject: &str, caches: &[(&str, &[&str])]) -> String {
    sign(&secret(data), &claims(subject, caches))
}

/// The same, one that ended an hour ago.
pub fn mint_expired(data: &Path, subject: &str, caches: &[(&str, &[&str])]) -> String {
    let mut claims = claims(subject, caches);
    claims["exp"] = json!(now() - 3600);
    sign(&secret(data), &claims)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// RFC 2104, for keys of at most 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message);
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test case 2.
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(data_encoding::HEXLOWER.encode(&mac), expected);
    }
}
