//! Nothing is served that nobody who is trusted vouches for.

use std::sync::Arc;

use castore::tree::Node;
use granary_api::sync::SyncedPath;
use granary_client::http::RetryPolicy;
use granary_client::migrate;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StoreDir, StorePath};

use crate::disk::DiskCache;
use crate::testing::{PATIENCE, Script, key, nar, noise};
use crate::{FileRef, LazyPath, LazyStore, Nars, Options, Source, Trust, View, ViewError};

fn ours() -> Trust {
    Trust::Keys(vec![key("ours").verifying_key()])
}

fn file(path: &LazyPath, name: &str) -> FileRef {
    let node = path.tree.lookup(name.as_bytes()).unwrap().unwrap();
    let Node::File { digest, size, .. } = node else { panic!("{name} is no file") };
    FileRef { digest: *digest, size: *size }
}

/// What the store says of a path, twice, since the second answer may come from disk.
async fn refused(store: &LazyStore, path: &StorePath) -> String {
    let first = store.path(path.hash()).await.unwrap_err();
    let second = store.path(path.hash()).await.unwrap_err();
    assert_eq!(first.to_string(), second.to_string());
    first.to_string()
}

fn disk(dir: &tempfile::TempDir) -> Option<Arc<DiskCache>> {
    Some(Arc::new(DiskCache::open(dir.path(), 1 << 28).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_a_trusted_key_signs_is_read_as_it_is() {
    let (script, dir) = (Script::default(), tempfile::tempdir().unwrap());
    let large = noise(1, 3_000_000);
    let files = [("a", &b"hello"[..]), ("large", &large)];
    let path = script.path(1, &files, &[&key("theirs"), &key("ours")], |_| ());
    for round in 0..2 {
        let store = script.store(disk(&dir), ours());
        let known = store.path(path.hash()).await.unwrap().unwrap();
        assert_eq!(known.info.store_path, path);
        let small = store.read(&known, file(&known, "a"), 1, 3).await.unwrap();
        assert_eq!(&small[..], b"ell");
        for (offset, length) in [(0, 10), (999_999, 1_000_001), (2_999_990, 100), (5_000_000, 1)] {
            let found = store.read(&known, file(&known, "large"), offset, length).await.unwrap();
            let end = large.len().min(offset as usize + length);
            assert!(found == large.get(offset as usize..end).unwrap_or_default());
        }
        let whole = store.materialise(&known, file(&known, "large")).await.unwrap();
        assert_eq!(whole.metadata().unwrap().len(), 3_000_000);
        assert_eq!(script.state().syncs, 1, "in round {round}");
    }
    assert!(script.store(disk(&dir), ours()).path([9; 20].into()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_nobody_or_somebody_else_signs_is_refused() {
    let (script, dir) = (Script::default(), tempfile::tempdir().unwrap());
    let files = [("a", &b"hello"[..])];
    let unsigned = script.path(1, &files, &[], |_| ());
    let strange = script.path(2, &files, &[&key("theirs")], |_| ());
    let store = script.store(disk(&dir), ours());
    for path in [&unsigned, &strange] {
        let said = refused(&store, path).await;
        assert!(said.contains("cannot be trusted") && said.contains("signed by no key"), "{said}");
    }
    let believing = script.store(disk(&dir), Trust::Everything);
    for path in [&unsigned, &strange] {
        let known = believing.path(path.hash()).await.unwrap().unwrap();
        assert_eq!(believing.read(&known, file(&known, "a"), 0, 9).await.unwrap(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_was_changed_is_refused() {
    let (script, dir) = (Script::default(), tempfile::tempdir().unwrap());
    let other = script.path(9, &[("a", &b"evil"[..])], &[], |_| ());
    let evil = script.store(None, Trust::Everything).path(other.hash()).await.unwrap().unwrap();
    assert_eq!(evil.info.store_path, other);
    let large = noise(1, 2_000_000);
    let files = [("a", &b"hello"[..]), ("large", &large)];
    let flip_tree = |path: &mut SyncedPath| *path.tree.last_mut().unwrap() ^= 1;
    let flip_list = |path: &mut SyncedPath| *path.lists[0].last_mut().unwrap() ^= 1;
    let no_list = |path: &mut SyncedPath| path.lists.clear();
    let other_name = |path: &mut SyncedPath| {
        let text = String::from_utf8(path.narinfo.clone()).unwrap();
        path.narinfo = text.replace("-path\n", "-evil\n").into_bytes();
    };
    let changes: [&dyn Fn(&mut SyncedPath); 4] = [&flip_tree, &flip_list, &no_list, &other_name];
    for (number, change) in (1..).zip(changes) {
        let path = script.path(number, &files, &[&key("ours")], change);
        let store = script.store(disk(&dir), ours());
        assert!(store.path(path.hash()).await.is_err(), "{number}");
        assert!(store.path(path.hash()).await.is_err(), "{number}, from disk");
    }
}

/// A server may not say of a path that was signed, but has no tree, that its NAR was seen here.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_cannot_pretend_that_a_nar_was_verified_here() {
    let (script, dir) = (Script::default(), tempfile::tempdir().unwrap());
    let forge = |path: &mut SyncedPath| {
        let text = String::from_utf8(path.narinfo.clone()).unwrap();
        let lines: String =
            text.lines().filter(|line| !line.starts_with("Granary")).fold(String::new(), add_line);
        let tree = castore::Digest::of(&path.tree);
        let field = |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let print =
            format!("1;{};{};{};", field("StorePath: "), field("NarHash: "), field("NarSize: "));
        let signature = key("ours").sign(&print);
        path.narinfo = format!("{lines}Sig: {signature}\nverified {tree}\n").into_bytes();
    };
    let path = script.path(1, &[("a", b"evil")], &[], forge);
    for _ in 0..2 {
        let store = script.store(disk(&dir), ours());
        refused(&store, &path).await;
    }
}

fn add_line(mut text: String, line: &str) -> String {
    text.push_str(line);
    text.push('\n');
    text
}

/// A binary cache in a folder, with one path.
fn binary_cache(dir: &tempfile::TempDir, nar_of: &[u8], told: &[u8]) -> StorePath {
    let path: StorePath =
        format!("{}-path", nix_compat::store_path::StorePathHash::from([1; 20])).parse().unwrap();
    let hash = Sha256::of(told).to_nix32();
    let full = format!("{}/{path}", StoreDir::default());
    let signature = key("ours").sign(&format!("1;{full};sha256:{hash};{};", told.len()));
    let narinfo = format!(
        "StorePath: {full}\nURL: path.nar\nCompression: none\nNarHash: sha256:{hash}\nNarSize: {}\n\
         References: \nSig: {signature}\n",
        told.len()
    );
    std::fs::write(dir.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    std::fs::write(dir.path().join(format!("{}.narinfo", path.hash())), narinfo).unwrap();
    std::fs::write(dir.path().join("path.nar"), nar_of).unwrap();
    path
}

async fn store_on(
    dir: &tempfile::TempDir,
    trust: Trust,
    disk: Option<Arc<DiskCache>>,
) -> LazyStore {
    let url = format!("file://{}", dir.path().display());
    let source = migrate::Source::open(&url, |_| None, RetryPolicy::patient()).await.unwrap();
    let (source, store_dir) = (Source::Nars(Box::new(Nars::new(source, url))), StoreDir::default());
    let options = Options { trust, store_dir, patience: PATIENCE, profiles: true };
    LazyStore::new(source, disk, options, tokio::runtime::Handle::current())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_is_verified_whole_before_anything_of_it_is_served() {
    let (cache, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let large = noise(1, 2_000_000);
    let good = nar(&[("a", b"hello"), ("large", &large)]);
    let mut bad = good.clone();
    *bad.iter_mut().rev().nth(1000).unwrap() ^= 1;
    let path = binary_cache(&cache, &bad, &good);
    let store = store_on(&cache, ours(), disk(&kept)).await;
    assert!(matches!(store.path(path.hash()).await, Err(ViewError::Unreachable { .. })));
    let strangers = Trust::Keys(vec![key("theirs").verifying_key()]);
    let strict = store_on(&cache, strangers, disk(&kept)).await;
    assert!(matches!(strict.path(path.hash()).await, Err(ViewError::Untrusted { .. })));

    binary_cache(&cache, &good, &good);
    for kept in [disk(&kept), None] {
        let store = store_on(&cache, ours(), kept).await;
        let known = store.path(path.hash()).await.unwrap().unwrap();
        let found = store.read(&known, file(&known, "large"), 0, 2_000_000).await.unwrap();
        assert!(found == large);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_whose_chunks_are_lost_is_read_once_more() {
    let (cache, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let large = noise(1, 4_000_000);
    let good = nar(&[("large", &large)]);
    let path = binary_cache(&cache, &good, &good);
    let store = store_on(&cache, ours(), disk(&kept)).await;
    store.path(path.hash()).await.unwrap().unwrap();
    drop(store);
    for entry in std::fs::read_dir(kept.path().join("segments")).unwrap() {
        let segment = entry.unwrap().path();
        let mut bytes = std::fs::read(&segment).unwrap();
        // The tree and the list are in a small one.
        bytes.iter_mut().skip(20_000).step_by(20_000).for_each(|byte| *byte ^= 1);
        std::fs::write(&segment, bytes).unwrap();
    }
    let kept = disk(&kept).unwrap();
    let store = Arc::new(store_on(&cache, ours(), Some(kept.clone())).await);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    let readers = (0..20).map(|number| {
        let (store, known) = (store.clone(), known.clone());
        tokio::spawn(async move {
            store.read(&known, file(&known, "large"), number * 200_000, 200_000).await
        })
    });
    for (number, found) in readers.enumerate() {
        let found = found.await.unwrap().unwrap();
        assert!(found == large[number * 200_000..][..200_000], "{number}");
    }
    assert!(kept.damaged() > 0);
    // What came by the way was not looked at on disk; whoever misses it has it put there again.
    let store = store_on(&cache, ours(), Some(kept.clone())).await;
    let known = store.path(path.hash()).await.unwrap().unwrap();
    assert!(store.read(&known, file(&known, "large"), 0, 4_000_000).await.unwrap() == large);
    let (store, before) = (store_on(&cache, ours(), Some(kept.clone())).await, kept.damaged());
    let known = store.path(path.hash()).await.unwrap().unwrap();
    let found = store.read_now(&known, file(&known, "large"), 0, 4_000_000);
    assert!(found.expect("it is on disk once more") == large);
    assert_eq!(kept.damaged(), before);
}
