//! Keys that sign tokens, and keys that tell who signed. Each is bound to one algorithm, so that
//! what is public of an RSA key is never taken for a secret of HS256 (RFC 8725, section 3.1).
//!
//! Files hold a PEM, or base64: of a PEM, or of a secret for HS256. Those are the forms in which
//! Attic is configured, so its secrets can be used as they are.

use std::path::{Path, PathBuf};
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};

use super::Claims;

/// Shorter secrets can be guessed by whoever has seen one token.
const MIN_SECRET: usize = 16;
/// Shorter moduli can be factored (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2048;
/// No key file is longer.
const MAX_FILE: u64 = 64 * 1024;
const PEM: &[u8] = b"-----BEGIN";

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the key file {path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: WrongKey,
    },
}

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongKey {
    /// Neither PEM nor base64.
    #[error("it holds neither a PEM nor base64 (`openssl rand -base64 48` makes a secret)")]
    Unreadable,
    /// Of no kind that is known.
    #[error(
        "it is not an RSA, P-256 or Ed25519 key in a form that is known here \
         (`openssl pkcs8 -topk8 -nocrypt` brings private keys into it)"
    )]
    Unknown,
    /// A key pair where a secret is wanted.
    #[error("it holds a PEM where a secret for HS256 is wanted")]
    NotASecret,
    /// A secret where a key is wanted that may be shown.
    #[error("it holds a secret for HS256 where a public key is wanted")]
    NotPublic,
    /// A public key where one is wanted that can sign.
    #[error("it holds a public key, which cannot sign")]
    CannotSign,
    /// Too easy to guess.
    #[error("the secret is too short: {MIN_SECRET} bytes are the least")]
    ShortSecret,
    /// Too easy to break.
    #[error("the RSA key is too short: {MIN_RSA_BITS} bits are the least")]
    ShortRsa,
}

/// A key that tells whether a token was signed by its other half.
#[derive(Clone)]
pub struct VerifyingKey {
    /// Its name among keys (`kid`), where it has one.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey({:?}, {:?})", self.algorithm, self.id)
    }
}

impl VerifyingKey {
    /// The secret of HS256.
    pub fn from_secret(secret: &[u8]) -> Self {
        let key = DecodingKey::from_secret(secret);
        Self { id: None, algorithm: Algorithm::HS256, key }
    }

    /// The secret of HS256 in a file, as base64.
    pub fn from_secret_file(path: &Path) -> Result<Self, KeyError> {
        read(path, |content| match content {
            Content::Pem(_) => Err(WrongKey::NotASecret),
            Content::Secret(secret) => Ok(Self::from_secret(&secret)),
        })
    }

    /// The public key in a file. A private key will do, as its public half.
    pub fn from_public_file(path: &Path) -> Result<Self, KeyError> {
        read(path, |content| match content {
            Content::Pem(pem) => Self::from_pem(&pem),
            Content::Secret(_) => Err(WrongKey::NotPublic),
        })
    }

    fn from_pem(pem: &[u8]) -> Result<Self, WrongKey> {
        if let Some((_, _, public)) = private(pem) {
            return Self::from_jwk(&public);
        }
        let key = DecodingKey::from_ed_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_rsa_pem(pem));
        let key = key.map_err(|_| WrongKey::Unknown)?;
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| WrongKey::Unknown)?;
        Self::from_jwk(&jwk)
    }

    /// A key of a JWK set (RFC 7517). Symmetric ones are not taken: a set is public.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, WrongKey> {
        use Algorithm::{ES256, EdDSA, RS256};
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).map_err(|_| WrongKey::Unknown)?;
                let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
                if (modulus.len() - zeros) * 8 < MIN_RSA_BITS {
                    return Err(WrongKey::ShortRsa);
                }
                RS256
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => ES256,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                EdDSA
            }
            _ => return Err(WrongKey::Unknown),
        };
        // A key that is meant for another algorithm of its family is used for that alone.
        if jwk.common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm)) {
            return Err(WrongKey::Unknown);
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|_| WrongKey::Unknown)?;
        let named = jwk.common.key_id.clone();
        let id = named.or_else(|| jwk.thumbprint(ThumbprintHash::SHA256).ok());
        Ok(Self { id, algorithm, key })
    }

    /// Its `kid`.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The algorithm it is bound to.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether it vouches for `message`, as signed with `algorithm`.
    pub(super) fn vouches(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        algorithm == self.algorithm
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm)
                .unwrap_or(false)
    }
}

/// A key that signs tokens. Its `Debug` says nothing of it.
pub struct SigningKey {
    /// Its name among keys (`kid`), where it has one.
    id: Option<String>,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?}, {:?}, …)", self.algorithm, self.id)
    }
}

impl SigningKey {
    /// The secret of HS256.
    pub fn from_secret(secret: &[u8]) -> Self {
        let key = EncodingKey::from_secret(secret);
        Self { id: None, algorithm: Algorithm::HS256, key }
    }

    /// The key in a file: a PEM with a private key, or a secret for HS256.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        read(path, |content| match content {
            Content::Pem(pem) => Self::from_pem(&pem),
            Content::Secret(secret) => Ok(Self::from_secret(&secret)),
        })
    }

    fn from_pem(pem: &[u8]) -> Result<Self, WrongKey> {
        let Some((algorithm, key, public)) = private(pem) else {
            return Err(match VerifyingKey::from_pem(pem) {
                Ok(_) => WrongKey::CannotSign,
                Err(why) => why,
            });
        };
        let id = VerifyingKey::from_jwk(&public)?.id;
        Ok(Self { id, algorithm, key })
    }

    /// Signs the claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&self.id);
        jsonwebtoken::encode(&header, claims, &self.key)
    }
}

/// The private key in a PEM, with what may be known of it. Which of the three kinds it is, only
/// trying tells; public keys fail where their public half is to be derived.
fn private(pem: &[u8]) -> Option<(Algorithm, EncodingKey, Jwk)> {
    let candidates = [
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
        (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
    ];
    candidates.into_iter().find_map(|(algorithm, key)| {
        let key = key.ok()?;
        let public = Jwk::from_encoding_key(&key, algorithm).ok()?;
        Some((algorithm, key, public))
    })
}

/// Signs the claims with HS256.
pub fn sign(secret: &[u8], claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
    SigningKey::from_secret(secret).sign(claims)
}

enum Content {
    Pem(Vec<u8>),
    Secret(Vec<u8>),
}

fn read<T>(path: &Path, parse: impl FnOnce(Content) -> Result<T, WrongKey>) -> Result<T, KeyError> {
    let file = |source| KeyError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(file)?.len() > MAX_FILE {
        return Err(KeyError::Content { path: path.to_owned(), why: WrongKey::Unreadable });
    }
    let bytes = fs::read(path).map_err(file)?;
    let content = decode(&bytes).and_then(parse);
    content.map_err(|why| KeyError::Content { path: path.to_owned(), why })
}

fn decode(bytes: &[u8]) -> Result<Content, WrongKey> {
    if bytes.trim_ascii_start().starts_with(PEM) {
        return Ok(Content::Pem(bytes.to_vec()));
    }
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let decoded = STANDARD.decode(text).map_err(|_| WrongKey::Unreadable)?;
    if decoded.trim_ascii_start().starts_with(PEM) {
        return Ok(Content::Pem(decoded));
    }
    if decoded.len() < MIN_SECRET {
        return Err(WrongKey::ShortSecret);
    }
    Ok(Content::Secret(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/token/testdata").join(name)
    }

    fn why<T: std::fmt::Debug>(result: Result<T, KeyError>) -> WrongKey {
        match result.unwrap_err() {
            KeyError::Content { why, .. } => why,
            error => panic!("{error}"),
        }
    }

    #[test]
    fn a_key_verifies_what_its_other_half_signed_and_nothing_else() {
        let claims = Claims::root("1".to_owned());
        let pairs = ["rsa", "ec", "ed"];
        for signer in pairs {
            let token =
                SigningKey::from_file(&file(&format!("{signer}-one.pem"))).unwrap().sign(&claims);
            let token = token.unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert!(header.kid.is_some());
            for public in pairs {
                let key = VerifyingKey::from_public_file(&file(&format!("{public}-one.pub.pem")));
                let key = key.unwrap();
                let fits = signer == public;
                assert_eq!(key.vouches(header.alg, message, signature), fits, "{signer} {public}");
                assert_eq!(header.kid.as_deref() == key.id(), fits, "{signer} {public}");
            }
            let other =
                VerifyingKey::from_public_file(&file(&format!("{signer}-two.pem"))).unwrap();
            assert!(!other.vouches(header.alg, message, signature), "{signer}");
        }
    }

    #[test]
    fn a_private_key_stands_for_its_public_half_also_as_base64() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let pem = fs::read(file("rsa-one.pkcs1.pem")).unwrap();
        fs::write(&path, STANDARD.encode(&pem)).unwrap();
        let public = VerifyingKey::from_public_file(&file("rsa-one.pub.pem")).unwrap();
        for private in [path, file("rsa-one.pem")] {
            assert_eq!(VerifyingKey::from_public_file(&private).unwrap().id(), public.id());
            let signing = SigningKey::from_file(&private).unwrap();
            assert_eq!(signing.id.as_deref(), public.id());
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let written = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let secret = written("secret", &format!("{}\n", STANDARD.encode([7; 48])));
        let short = written("short", &STANDARD.encode([7; 15]));
        let prose = written("prose", "a secret, but not base64!\n");
        assert_eq!(why(VerifyingKey::from_secret_file(&short)), WrongKey::ShortSecret);
        assert_eq!(why(VerifyingKey::from_secret_file(&prose)), WrongKey::Unreadable);
        assert_eq!(
            why(VerifyingKey::from_secret_file(&file("rsa-one.pub.pem"))),
            WrongKey::NotASecret
        );
        assert_eq!(why(VerifyingKey::from_public_file(&secret)), WrongKey::NotPublic);
        assert_eq!(why(VerifyingKey::from_public_file(&file("p384.pub.pem"))), WrongKey::Unknown);
        assert_eq!(
            why(VerifyingKey::from_public_file(&file("rsa-short.pub.pem"))),
            WrongKey::ShortRsa
        );
        for public in ["rsa-one.pub.pem", "ec-one.pub.pem", "ed-one.pub.pem"] {
            assert_eq!(why(SigningKey::from_file(&file(public))), WrongKey::CannotSign, "{public}");
        }
        let missing = VerifyingKey::from_secret_file(&dir.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[test]
    fn a_public_set_cannot_bring_in_a_secret() {
        let secret = EncodingKey::from_secret(&[7; 48]);
        let jwk = Jwk::from_encoding_key(&secret, Algorithm::HS256).unwrap();
        assert_eq!(VerifyingKey::from_jwk(&jwk).err(), Some(WrongKey::Unknown));
    }
}
