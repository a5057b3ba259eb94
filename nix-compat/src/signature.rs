//! Named Ed25519 keys, and the signatures Nix makes with them.
//!
//! Keys and signatures are written `name:base64`. The bytes are 32 for a
//! public key, 64 for a signature, and 64 for a secret key: the seed, then
//! the public key. What is signed is a narinfo's
//! [fingerprint](crate::narinfo::fingerprint). A signature counts only under
//! the key of its name.
//!
//! Source: the Nix manual (`nix-store --generate-binary-cache-key`, "Signing
//! store objects"); RFC 8032.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD};
use ed25519_dalek::Signer;

/// Why a text is not a key or a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No colon.
    #[error("no colon between the key's name and the base 64")]
    NoColon,
    /// The name is empty, or has a colon, space or control character in it.
    #[error("{0:?} cannot be the name of a key")]
    Name(String),
    /// Not base 64.
    #[error("not base 64: {0}")]
    Base64(#[from] data_encoding::DecodeError),
    /// The wrong number of bytes.
    #[error("has {found} bytes where {expected} are expected")]
    Length {
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The public key is no point of the curve.
    #[error("not a public key")]
    NotAKey,
    /// The second half of a secret key is not the public key of the first.
    #[error("the secret key's two halves do not belong together")]
    Mismatch,
}

/// The name of a key, as in `cache.example.org-1`: not empty, and free of
/// colons, spaces and control characters.
fn check_name(name: &str) -> Result<(), Error> {
    let bad = |c: char| c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(bad) { Err(Error::Name(name.to_owned())) } else { Ok(()) }
}

/// Splits `name:base64` and decodes the `N` bytes. Padding may be left out.
fn parse<const N: usize>(s: &str) -> Result<(String, [u8; N]), Error> {
    let (name, base64) = s.split_once(':').ok_or(Error::NoColon)?;
    check_name(name)?;
    let bytes = BASE64_NOPAD.decode(base64.trim_end_matches('=').as_bytes())?;
    match bytes.as_slice().try_into() {
        Ok(bytes) => Ok((name.to_owned(), bytes)),
        Err(_) => Err(Error::Length { found: bytes.len(), expected: N }),
    }
}

/// A signature and the name of the key that is said to have made it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    name: String,
    bytes: [u8; 64],
}

impl Signature {
    /// The signature with these bytes by the key of this name.
    pub fn new(name: &str, bytes: [u8; 64]) -> Result<Self, Error> {
        check_name(name)?;
        Ok(Signature { name: name.to_owned(), bytes })
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signature's bytes.
    pub fn bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let (name, bytes) = parse(s)?;
        Ok(Signature { name, bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(&self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// A public key, as in `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifyingKey {
    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether this key, under this name, made `signature` of `fingerprint`.
    /// As strict as libsodium, which Nix uses: keys of small order are out.
    pub fn verify(&self, fingerprint: &str, signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.name == signature.name
            && self.key.verify_strict(fingerprint.as_bytes(), &bytes).is_ok()
    }
}

impl FromStr for VerifyingKey {
    type Err = Error;

    /// Space around the text, as at the end of a key file, is dropped.
    fn from_str(s: &str) -> Result<Self, Error> {
        let (name, bytes) = parse(s.trim())?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| Error::NotAKey)?;
        Ok(VerifyingKey { name, key })
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.bytes()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

/// A secret key. It has no `Display`, so that it is not shown by accident;
/// its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key of this name made from 32 random bytes, which the caller
    /// takes from the system's generator.
    pub fn generate(name: &str, seed: [u8; 32]) -> Result<Self, Error> {
        check_name(name)?;
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        Ok(SigningKey { name: name.to_owned(), key })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Signs a fingerprint.
    pub fn sign(&self, fingerprint: &str) -> Signature {
        let bytes = self.key.sign(fingerprint.as_bytes()).to_bytes();
        Signature { name: self.name.clone(), bytes }
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// The key as `nix-store --generate-binary-cache-key` writes it to the
    /// secret file. Whoever has this text can sign.
    pub fn to_secret_string(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }
}

impl FromStr for SigningKey {
    type Err = Error;

    /// Space around the text, as at the end of a key file, is dropped.
    fn from_str(s: &str) -> Result<Self, Error> {
        let (name, bytes) = parse(s.trim())?;
        let key =
            ed25519_dalek::SigningKey::from_keypair_bytes(&bytes).map_err(|_| Error::Mismatch)?;
        Ok(SigningKey { name, key })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `nix-store --generate-binary-cache-key test-1` (Nix 2.8).
    const SECRET: &str = "test-1:jtn2OJ3ykapqte2fYqPJQLVDb0MH0cJRWnhydm4BsRIXWV7nZHWXlOebyRoRm5gOEDwW4a6zUprC4prD6U4U2g==";
    const PUBLIC: &str = "test-1:F1le52R1l5Tnm8kaEZuYDhA8FuGus1KawuKaw+lOFNo=";

    #[test]
    fn keys_of_nix_read_and_print_to_themselves() {
        let secret: SigningKey = SECRET.parse().unwrap();
        assert_eq!(secret.to_secret_string(), SECRET);
        assert_eq!(secret.verifying_key().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse(), Ok(secret.verifying_key()));
        assert_eq!(format!("{PUBLIC}\n").parse(), Ok(secret.verifying_key()));
        assert_eq!(secret.name(), "test-1");
    }

    #[test]
    fn a_key_made_from_a_seed_signs_and_verifies() {
        let key = SigningKey::generate("k", [7; 32]).unwrap();
        let signature = key.sign("1;fingerprint");
        assert!(key.verifying_key().verify("1;fingerprint", &signature));
        assert!(!key.verifying_key().verify("1;fingerprin", &signature));
        assert_eq!(signature.to_string().parse(), Ok(signature.clone()));

        let other_name = SigningKey::generate("l", [7; 32]).unwrap().verifying_key();
        assert!(!other_name.verify("1;fingerprint", &signature), "the name counts");
        let again: SigningKey = key.to_secret_string().parse().unwrap();
        assert_eq!(again.sign("1;fingerprint"), signature);
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        let secret: SigningKey = SECRET.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SigningKey { name: \"test-1\", .. }");
    }

    #[test]
    fn what_is_no_key_says_why() {
        assert_eq!("".parse::<VerifyingKey>(), Err(Error::NoColon));
        assert_eq!(":AAAA".parse::<VerifyingKey>(), Err(Error::Name(String::new())));
        assert_eq!("a b:AAAA".parse::<VerifyingKey>(), Err(Error::Name("a b".into())));
        assert!(matches!("a:*".parse::<VerifyingKey>(), Err(Error::Base64(_))));
        assert_eq!("a:AAAA".parse::<Signature>(), Err(Error::Length { found: 3, expected: 64 }));
        // y = 2 is on no point of the curve.
        let off_curve = format!("a:Ag{}=", "A".repeat(41));
        assert_eq!(off_curve.parse::<VerifyingKey>(), Err(Error::NotAKey));
        let other_half = SECRET.replace("IXWV7n", "IXWV7m");
        assert_eq!(other_half.parse::<SigningKey>().err(), Some(Error::Mismatch));
    }
}
