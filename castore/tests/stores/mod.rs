//! Stores to be damaged and copied.

#![allow(dead_code, reason = "not every test needs all of it")]

pub mod faults;
pub mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::{Expected, Options, Store, Transaction, Uploaded};

pub fn open_with(dir: &Path, pack_target: u64) -> Arc<Store> {
    let mut progress = |_| {};
    let options = Options { pack_target, ..Options::new(&mut progress) };
    Store::open(dir, options).unwrap()
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A tree of one directory that holds these files.
pub fn upload(store: &Arc<Store>, files: &[Vec<u8>]) -> Uploaded {
    let mut upload = store.upload().unwrap();
    upload.enter_directory(b"").unwrap();
    for (at, contents) in files.iter().enumerate() {
        let name = format!("file-{at:04}");
        upload.start_file(name.as_bytes(), false, contents.len() as u64).unwrap();
        upload.write(contents).unwrap();
    }
    upload.leave_directory().unwrap();
    upload.finish().unwrap()
}

pub fn put(store: &Store, key: &[u8], value: &[u8]) {
    let mut transaction = Transaction::default();
    transaction.put(key.to_vec(), value.to_vec(), Expected::Anything);
    store.commit(transaction).unwrap();
}

/// The sealed packs of a store, and those that are not, each sorted by name.
pub fn packs_of(dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let packs = fs::read_dir(dir.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let mut packs: Vec<PathBuf> = packs.collect();
    packs.sort();
    let with = |suffix: &str| {
        let of = |path: &&PathBuf| path.extension().is_some_and(|found| found == suffix);
        packs.iter().filter(of).cloned().collect()
    };
    (with("pack"), with("open"))
}
