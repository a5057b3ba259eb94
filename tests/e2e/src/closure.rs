//! The closures that `tests/closures/make` made.

use crate::places;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Length of `/nix/store/<hash>`.
const SUFFIX: usize = "/nix/store/".len() + 32;

/// A closure of store paths in a chroot store of its own.
#[derive(Debug)]
pub struct Closure {
    /// The directory that holds `nix/store`.
    pub root: PathBuf,
    /// The store path that refers to all others, directly or not.
    pub top: String,
    /// All of them, in order of their names.
    pub paths: Vec<StorePath>,
}

/// What Nix's database says about one store path.
#[derive(Debug, Clone)]
pub struct StorePath {
    /// `/nix/store/<hash>-<name>`
    pub path: String,
    /// SHA-256 of its NAR, in hex.
    pub nar_hash: String,
    /// Size of its NAR in bytes.
    pub nar_size: u64,
    /// Full store paths, itself among them where it refers to itself.
    pub references: Vec<String>,
}

impl StorePath {
    /// The 32 characters that name it in a cache.
    pub fn hash_part(&self) -> &str {
        &self.path[SUFFIX - 32..SUFFIX]
    }
}

impl Closure {
    /// Some 28 paths, 60 MB of NAR: a shell and its tools.
    pub fn tiny() -> Self {
        Self::read("tiny", "A")
    }

    /// More than 220 paths and 1.3 GB of NAR, one of them a file of 340 MB.
    pub fn full() -> Self {
        let closure = Self::read("full", "A");
        assert!(closure.paths.len() >= 220, "the full closure has shrunk: {}", closure.paths.len());
        assert!(
            closure.paths.iter().any(|path| path.nar_size > 300_000_000),
            "the full closure has no file above 300 MB any more"
        );
        closure
    }

    /// [`Closure::full`] after a change at its bottom: other store paths throughout, and contents
    /// that differ only in the hashes embedded in them.
    pub fn full_rebuilt() -> Self {
        Self::read("full", "R")
    }

    /// The part of this closure that the package `name` needs.
    pub fn of_package(&self, name: &str) -> Self {
        let marker = format!("-{name}-");
        let named = |path: &&StorePath| path.path[SUFFIX..].starts_with(&marker);
        let top = self.paths.iter().find(named);
        let top = top.unwrap_or_else(|| panic!("no {name} in the closure of {}", self.top));
        let mut wanted = BTreeSet::from([&top.path]);
        let mut open = vec![top];
        while let Some(path) = open.pop() {
            for other in self.paths.iter().filter(|p| path.references.contains(&p.path)) {
                if wanted.insert(&other.path) {
                    open.push(other);
                }
            }
        }
        let paths = self.paths.iter().filter(|path| wanted.contains(&path.path));
        Self { root: self.root.clone(), top: top.path.clone(), paths: paths.cloned().collect() }
    }

    fn read(preset: &str, variant: &str) -> Self {
        let dir = places::tools().join("closures").join(preset);
        assert!(dir.join(".made-by").is_file(), "no closure {preset}: run tests/setup");
        let paths = read(&dir.join(format!("{variant}.tsv"))).lines().map(store_path).collect();
        let top = read(&dir.join(format!("{variant}.top"))).trim().to_owned();
        Self { root: dir.join("root"), top, paths }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}: run tests/setup", path.display()))
}

fn store_path(line: &str) -> StorePath {
    let mut columns = line.split('\t');
    let mut column = || columns.next().expect("four columns").to_owned();
    StorePath {
        path: column(),
        nar_hash: column(),
        nar_size: column().parse().expect("a size"),
        references: column().split_whitespace().map(str::to_owned).collect(),
    }
}
