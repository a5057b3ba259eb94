//! Security updates of a few packages: a closure of which some packages have other programs and
//! libraries, and all that depends on those has other store paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::closure::{Closure, StorePath};
use crate::codec;
use crate::nix::{ChrootStore, Nix};

const HASH: usize = 32;

/// Every so many bytes of a program something is different: less than the smallest chunk, so that
/// no chunk of it stays what it was.
const STEP: usize = 16 * 1024;

/// Hash parts, old and new.
type Renamed = BTreeMap<Vec<u8>, Vec<u8>>;

/// `closure` after an update of these packages, in a store of its own.
pub fn updated(nix: &Nix, closure: &Closure, packages: &[&str]) -> (ChrootStore, Closure) {
    let is_updated = |path: &StorePath| {
        let name = &path.path["/nix/store/".len() + HASH..];
        packages.iter().any(|package| name.starts_with(&format!("-{package}-")))
    };
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = changed.len();
        for path in &closure.paths {
            if is_updated(path) || path.references.iter().any(|r| changed.contains(r.as_str())) {
                changed.insert(&path.path);
            }
        }
        if changed.len() == before {
            break;
        }
    }
    let renamed: Renamed = changed
        .iter()
        .map(|path| {
            let hash = &path["/nix/store/".len()..][..HASH];
            let new = codec::nix32(&codec::sha256(format!("update of {path}").as_bytes())[..20]);
            (hash.as_bytes().to_vec(), new.into_bytes())
        })
        .collect();
    let rename = |path: &str| {
        String::from_utf8(replaced(path.as_bytes().to_vec(), &renamed)).expect("a path")
    };

    let store = ChrootStore::empty();
    fs::create_dir_all(store.real("/nix/store")).expect("a folder");
    let mut paths = Vec::new();
    for path in &closure.paths {
        let (from, new) = (closure.root.join(&path.path[1..]), rename(&path.path));
        let to = store.real(&new);
        if new == path.path {
            link(&from, &to);
            paths.push(path.clone());
        } else {
            copy(&from, &to, &renamed, is_updated(path));
            let (nar_hash, nar_size) = nix.nar_of(&to);
            let references = path.references.iter().map(|path| rename(path)).collect();
            paths.push(StorePath { path: new, nar_hash, nar_size, references });
        }
    }
    nix.register(store.root(), &paths);
    let (root, top) = (store.root().to_owned(), rename(&closure.top));
    (store, Closure { root, top, paths })
}

fn link(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-al").args([from, to]).status().expect("cp runs");
    assert!(status.success(), "cp -al {}", from.display());
}

fn copy(from: &Path, to: &Path, renamed: &Renamed, change: bool) {
    let meta = fs::symlink_metadata(from).expect("it is there");
    if meta.is_symlink() {
        let target = fs::read_link(from).expect("a symlink").into_os_string().into_encoded_bytes();
        let target = String::from_utf8(replaced(target, renamed)).expect("UTF-8");
        symlink(target, to).expect("a symlink");
    } else if meta.is_dir() {
        fs::create_dir(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name), renamed, change);
        }
    } else {
        let mut contents = fs::read(from).expect("a file");
        if change && contents.starts_with(b"\x7fELF") {
            contents.iter_mut().skip(STEP / 2).step_by(STEP).for_each(|byte| *byte ^= 0x5a);
        }
        fs::write(to, replaced(contents, renamed)).expect("a file");
        fs::set_permissions(to, meta.permissions()).expect("its permissions");
    }
}

/// The same with every `<hash>-` renamed.
fn replaced(mut bytes: Vec<u8>, renamed: &Renamed) -> Vec<u8> {
    for end in HASH..bytes.len() {
        if bytes[end] == b'-'
            && let Some(new) = renamed.get(&bytes[end - HASH..end])
        {
            bytes[end - HASH..end].copy_from_slice(new);
        }
    }
    bytes
}
