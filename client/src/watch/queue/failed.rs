//! Paths that could not be pushed: `failed/HASH-NAME`, JSON.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};

use super::{Error, at};

/// Pauses after each failed attempt, in seconds; the last one for ever. What was wrong may pass (a
/// disk, an unmounted part of the store), or be repaired by hand, and an attempt costs little.
const PAUSES: [u64; 4] = [60, 5 * 60, 30 * 60, 3 * 3600];

/// A path that could not be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedPath {
    /// The path.
    pub path: StorePath,
    /// Why, the last time.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again, in seconds since 1970.
    pub next: u64,
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    reason: String,
    attempts: u32,
    next: u64,
}

impl FailedPath {
    /// After one more failure.
    pub(super) fn again(path: &StorePath, before: Option<&Self>, reason: &str, now: u64) -> Self {
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let [.., last] = PAUSES;
        let next = now + PAUSES.get(attempts as usize - 1).copied().unwrap_or(last);
        Self { path: path.clone(), reason: reason.to_owned(), attempts, next }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { reason, attempts, next, .. } = self;
        let record = Record { reason: reason.clone(), attempts: *attempts, next: *next };
        // Strings and numbers always become JSON.
        serde_json::to_vec(&record).unwrap_or_default()
    }
}

fn place(dir: &Path, path: &StorePath) -> PathBuf {
    dir.join("failed").join(path.to_string())
}

pub(super) fn path_of(dir: &Path, failed: &FailedPath) -> PathBuf {
    place(dir, &failed.path)
}

/// What there is, by path. Foreign files are left out; what cannot be read failed in an unknown way.
pub(super) fn list(dir: &Path) -> Result<Vec<FailedPath>, Error> {
    let dir = dir.join("failed");
    let mut failed = Vec::new();
    for entry in at("read", &dir, fs::read_dir(&dir))? {
        let name = at("read", &dir, entry)?.file_name();
        let Some(Ok(path)) = name.to_str().map(str::parse::<StorePath>) else { continue };
        failed.extend(read(&dir.join(name), path)?);
    }
    failed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(failed)
}

/// What is known of one path.
pub(super) fn find(dir: &Path, path: &StorePath) -> Result<Option<FailedPath>, Error> {
    read(&place(dir, path), path.clone())
}

fn read(file: &Path, path: StorePath) -> Result<Option<FailedPath>, Error> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => at("read", file, text)?,
    };
    let unknown = |_| Record { reason: "unknown".to_owned(), attempts: 1, next: 0 };
    let Record { reason, attempts, next } = serde_json::from_slice(&text).unwrap_or_else(unknown);
    Ok(Some(FailedPath { path, reason, attempts, next }))
}

/// It was pushed, or is to start anew.
pub(super) fn forget(dir: &Path, path: &StorePath) -> Result<(), Error> {
    let path = place(dir, path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => at("remove", &path, removed),
    }
}
