//! Store paths made up on the spot, in a store that real clients can push from.

use std::fs;

use crate::nix::{ChrootStore, Nix};
use crate::random::Random;
use crate::{codec, nar};

/// Bytes that many of the paths have in common, so that uploads share chunks.
const STOCK: u64 = 8;
const STOCK_FILE: usize = 300_000;

/// A folder of some files: up to a few MB.
#[derive(Debug, Clone)]
pub struct MadeUp {
    /// `/nix/store/<hash>-<name>`
    pub path: String,
    /// SHA-256 of its NAR, in hex.
    pub nar_hash: String,
}

impl MadeUp {
    /// The 32 characters that name it in a cache.
    pub fn hash_part(&self) -> &str {
        &self.path["/nix/store/".len()..][..32]
    }
}

/// So many of them, in a store of their own.
pub fn store(nix: &Nix, random: &mut Random, count: usize) -> (ChrootStore, Vec<MadeUp>) {
    let store = ChrootStore::empty();
    let scratch = crate::places::scratch();
    let (mut folders, mut hashes) = (Vec::new(), Vec::new());
    for number in 0..count {
        let folder = scratch.path().join(format!("made-up-{number}"));
        fs::create_dir(&folder).expect("a folder");
        let mut entries = Vec::new();
        for entry in 0..1 + random.below(4) {
            let (name, contents) = (format!("file-{entry}"), contents(random));
            fs::write(folder.join(&name), &contents).expect("written");
            entries.push((name, nar::file(&contents, false)));
        }
        hashes.push(codec::sha256_hex(&nar::nar(&nar::directory(&entries))));
        folders.push(folder);
    }
    let paths = nix.add(&store, &folders);
    let made = paths.into_iter().zip(hashes).map(|(path, nar_hash)| MadeUp { path, nar_hash });
    (store, made.collect())
}

fn contents(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => Random::new(random.below(STOCK)).text(STOCK_FILE),
        1 => {
            let size = random.below(2_000_000) as usize;
            random.text(size)
        }
        _ => {
            let size = random.below(1_000_000) as usize;
            random.bytes(size)
        }
    }
}
