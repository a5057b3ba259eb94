//! The server's own key: a file of mode 0600 that seals the secrets in the store.
//!
//! Records lie in packs that may go to object storage, and packs are copied for backup. Signing
//! keys in them are sealed (XChaCha20-Poly1305) with a key that stays on the server. Without the
//! file the caches' keys are lost, and nothing else is.

use std::fs;
use std::io;
use std::path::Path;

use castore::durable::write_file;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

const NONCE_LEN: usize = 24;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The key file cannot be read or made.
    #[error("the server's key {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The key file does not hold a key.
    #[error("the server's key {0} does not hold 64 hexadecimal digits: restore it from a backup")]
    Malformed(String),
    /// A sealed secret does not open.
    #[error("a secret in the store was sealed with another server key: restore the right one")]
    WrongKey,
    /// The system has no randomness to give.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// The key that seals secrets. Its `Debug` says nothing of it.
pub struct ServerKey([u8; 32]);

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey(…)")
    }
}

/// Fresh random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretError::Random(error.to_string()))?;
    Ok(bytes)
}

impl ServerKey {
    /// Reads the key at `path`, making it first where there is none.
    pub fn load_or_make(path: &Path) -> Result<Self, SecretError> {
        let at = |source| SecretError::File { path: path.display().to_string(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = blake3::Hash::from_bytes(random()?).to_hex();
                write_file(path, format!("{text}\n").as_bytes(), 0o600).map_err(at)?;
            }
            Err(error) => return Err(at(error)),
            Ok(_) => {}
        }
        Self::load(path)
    }

    /// Reads the key at `path`.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let at = |source| SecretError::File { path: path.display().to_string(), source };
        let text = fs::read_to_string(path).map_err(at)?;
        let key = blake3::Hash::from_hex(text.trim());
        let key = key.map_err(|_| SecretError::Malformed(path.display().to_string()))?;
        Ok(Self(*key.as_bytes()))
    }

    /// A key for another purpose, which does not tell this one.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.derive("granary 2026 seal secrets in records").into())
    }

    /// Seals a secret. `context` names its place: it opens nowhere else.
    pub fn seal(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, SecretError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let payload = Payload { msg: secret, aad: context };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload);
        Ok([&nonce[..], &sealed.map_err(|_| SecretError::WrongKey)?].concat())
    }

    /// Opens a sealed secret.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (nonce, sealed) =
            sealed.split_first_chunk::<NONCE_LEN>().ok_or(SecretError::WrongKey)?;
        let payload = Payload { msg: sealed, aad: context };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| SecretError::WrongKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_sealed_secret_opens_only_in_its_place_and_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = ServerKey::load_or_make(&path).unwrap();
        let sealed = key.seal(b"here", b"secret").unwrap();
        let again = ServerKey::load_or_make(&path).unwrap();
        assert_eq!(again.open(b"here", &sealed).unwrap(), b"secret");
        assert!(again.open(b"there", &sealed).is_err());
        let other = ServerKey::load_or_make(&dir.path().join("other")).unwrap();
        assert!(other.open(b"here", &sealed).is_err());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{key:?}").contains(fs::read_to_string(path).unwrap().trim()));
    }
}
