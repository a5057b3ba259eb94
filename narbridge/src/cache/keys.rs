//! The key pairs of a cache. It signs with every one whose time has not run out, so that clients can
//! change from one key to the next.

use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;

/// A key pair, and until when it signs.
#[derive(Clone, Debug)]
pub struct CacheKey {
    secret: SigningKey,
    sign_until: Option<u64>,
}

impl CacheKey {
    pub(crate) fn new(secret: SigningKey, sign_until: Option<u64>) -> Self {
        Self { secret, sign_until }
    }

    /// The public half.
    pub fn public_key(&self) -> VerifyingKey {
        self.secret.verifying_key()
    }

    /// Until when it signs, in seconds since 1970; `None` for ever.
    pub fn sign_until(&self) -> Option<u64> {
        self.sign_until
    }

    fn signs(&self, now: u64) -> bool {
        self.sign_until.is_none_or(|until| now < until)
    }
}

/// The keys that sign at some moment.
pub(super) struct Signers<'a> {
    keys: Vec<&'a SigningKey>,
    /// When the first of them ends.
    pub(super) until: Option<u64>,
}

impl<'a> Signers<'a> {
    pub(super) fn at(now: u64, keys: &'a [CacheKey]) -> Self {
        let signing = || keys.iter().filter(move |key| key.signs(now));
        let until = signing().filter_map(|key| key.sign_until).min();
        Self { keys: signing().map(|key| &key.secret).collect(), until }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a SigningKey> {
        self.keys.iter().copied()
    }

    /// A mark of what goes into a signature beside the path: other keys, or the same names with
    /// other keys behind them, or another store directory have another mark.
    pub(super) fn mark(&self, store_dir: &StoreDir) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(store_dir.as_str().as_bytes());
        for key in &self.keys {
            hasher.update(b"\n");
            hasher.update(key.verifying_key().to_string().as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}
