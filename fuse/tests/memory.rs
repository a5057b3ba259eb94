//! What a walk over very many files takes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use castore::Digest;
use castore::tree::{Node, Tree, TreeBuilder};
use granary_lazy::{FileRef, LazyPath, View, ViewError};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use support::{Mounted, lazy_path, store_path};

const PATHS: u64 = 50;
const DIRECTORIES: u64 = 40;
const FILES: u64 = 500;
const INODES: u64 = PATHS * (1 + DIRECTORIES * (1 + FILES));
const _: () = assert!(INODES > 1_000_000);

/// Paths full of files that are all different, made when they are asked for, and kept.
struct Million {
    store_dir: StoreDir,
    paths: Arc<Vec<StorePath>>,
    trees: Mutex<HashMap<StorePathHash, Arc<LazyPath>>>,
}

fn digest(number: u64) -> Digest {
    let mut bytes = [0x77; 32];
    bytes[..8].copy_from_slice(&(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    Digest::from_bytes(bytes)
}

fn tree(path: u64) -> Tree {
    let mut builder = TreeBuilder::default();
    builder.enter_directory(b"").unwrap();
    for directory in 0..DIRECTORIES {
        builder.enter_directory(format!("directory-{directory:03}").as_bytes()).unwrap();
        for file in 0..FILES {
            let name = builder.name(format!("some-file-{file:04}.txt").as_bytes()).unwrap();
            let number = (path * DIRECTORIES + directory) * FILES + file;
            let node = Node::File { digest: digest(number), size: 1, executable: false };
            builder.place(name, node).unwrap();
        }
        builder.leave_directory().unwrap();
    }
    builder.leave_directory().unwrap();
    Tree::decode(&builder.finish().unwrap().1).unwrap()
}

impl View for Million {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn name(&self) -> &str {
        "a million files"
    }

    async fn paths(&self) -> Result<Option<Arc<Vec<StorePath>>>, ViewError> {
        Ok(Some(self.paths.clone()))
    }

    async fn info(&self, _: StorePathHash) -> Result<Option<Arc<PathInfo>>, ViewError> {
        Ok(None)
    }

    async fn path(&self, hash: StorePathHash) -> Result<Option<Arc<LazyPath>>, ViewError> {
        Ok(self.path_now(hash).flatten())
    }

    fn path_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>> {
        let number = self.paths.iter().position(|path| path.hash() == hash);
        let lazy = number.map(|n| {
            let path = || lazy_path(&self.paths[n], tree(n as u64));
            self.trees.lock().unwrap().entry(hash).or_insert_with(path).clone()
        });
        Some(lazy)
    }

    async fn read(
        &self,
        _: &Arc<LazyPath>,
        _: FileRef,
        _: u64,
        _: usize,
    ) -> Result<Bytes, ViewError> {
        Ok(Bytes::from_static(b"x"))
    }

    fn read_now(&self, _: &Arc<LazyPath>, _: FileRef, _: u64, _: usize) -> Option<Bytes> {
        Some(Bytes::from_static(b"x"))
    }

    async fn materialise(&self, _: &Arc<LazyPath>, _: FileRef) -> Result<Arc<File>, ViewError> {
        Ok(Arc::new(tempfile::tempfile().unwrap()))
    }
}

/// A field of /proc/self/status, in KiB.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().split(' ').next().unwrap().parse().unwrap()
}

fn walk(directory: &Path) -> u64 {
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        count += 1;
        if entry.metadata().unwrap().is_dir() {
            count += walk(&entry.path());
        }
    }
    count
}

#[test]
fn a_walk_of_a_million_inodes_takes_less_than_500_mb() {
    let paths = (0..PATHS).map(|n| store_path(n, "files")).collect();
    let view =
        Million { store_dir: StoreDir::default(), paths: Arc::new(paths), trees: Mutex::default() };
    let mounted = Mounted::alone(&Arc::new(view), Default::default());
    assert_eq!(walk(mounted.root()), INODES);
    // All at once, unless the kernel itself was short of memory.
    let held = mounted.mount.statistics().inodes;
    assert!(held > INODES / 2, "{held} inodes are held");
    // This process is the walker too, and holds the trees.
    let peak = status("VmHWM") / 1024;
    println!("{held} inodes, {peak} MiB");
    assert!(peak < 476, "{peak} MiB");
    mounted.forget_everything();
}
