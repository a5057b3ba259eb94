//! The last good keys of an issuer, in a file, so that a server that restarts while the issuer is
//! away still knows them.
//!
//! `<data>/oidc/<digest of the issuer's name>.json` holds the issuer's name and its JWK set.

use std::path::{Path, PathBuf};
use std::{fs, io};

use castore::Digest;
use castore::durable::write_file;
use serde::{Deserialize, Serialize};

use super::fetch;
use crate::token::VerifyingKey;

#[derive(Deserialize, Serialize)]
struct Saved {
    issuer: String,
    jwks: String,
}

/// Where an issuer's keys are kept.
pub(crate) fn path(dir: &Path, issuer: &str) -> PathBuf {
    dir.join(format!("{}.json", Digest::of(issuer.as_bytes())))
}

/// The keys that were kept. What cannot be read is as good as absent: it will be fetched.
pub(crate) fn read(path: &Path, issuer: &str) -> Option<Vec<VerifyingKey>> {
    let saved: Saved = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let keys = fetch::parse(&saved.jwks).ok()?;
    (saved.issuer == issuer && !keys.is_empty()).then_some(keys)
}

/// Keeps the keys that `jwks` holds. Blocks.
pub(crate) fn write(path: &Path, issuer: &str, jwks: String) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_vec(&Saved { issuer: issuer.to_owned(), jwks })?;
    write_file(path, &text, 0o600)
}
