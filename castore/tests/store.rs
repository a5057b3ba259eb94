//! The store's promises, on real files.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use castore::bytes::Wait;
use castore::tree::Node;
use castore::{CommitError, Expected, Kind, OpenProgress, Options, Store, Transaction, Uploaded};

fn open_with(dir: &Path, pack_target: u64) -> Arc<Store> {
    let mut progress = |_| {};
    let options = Options { pack_target, ..Options::new(&mut progress) };
    Store::open(dir, options).unwrap()
}

fn open(dir: &Path) -> Arc<Store> {
    open_with(dir, 4 * 1024 * 1024)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A tree of one directory that holds these files.
fn upload(store: &Arc<Store>, files: &[Vec<u8>]) -> Uploaded {
    let mut upload = store.upload().unwrap();
    upload.enter_directory(b"").unwrap();
    for (at, contents) in files.iter().enumerate() {
        let name = format!("file-{at:04}");
        upload.start_file(name.as_bytes(), false, contents.len() as u64).unwrap();
        for piece in contents.chunks(100_000) {
            upload.write(piece).unwrap();
        }
    }
    upload.leave_directory().unwrap();
    upload.finish().unwrap()
}

fn put(store: &Store, key: &[u8], value: &[u8]) {
    let mut transaction = Transaction::default();
    transaction.put(key.to_vec(), value.to_vec(), Expected::Anything);
    store.commit(transaction).unwrap();
}

fn assert_holds(store: &Arc<Store>, uploaded: &Uploaded, files: &[Vec<u8>]) {
    let tree = store.tree(&uploaded.tree).unwrap();
    assert_eq!(*tree.root(), uploaded.root);
    let mut reader = store.reader().unwrap();
    for (at, contents) in files.iter().enumerate() {
        let node = tree.lookup(format!("file-{at:04}").as_bytes()).unwrap();
        let Some(Node::File { digest, size, .. }) = node else { panic!("{node:?}") };
        let mut read = Vec::new();
        for chunk in store.chunks_of(&tree, digest, *size).unwrap() {
            reader.append_chunk(&chunk, &mut read).unwrap();
        }
        assert!(read == *contents, "file {at} differs");
    }
}

fn files() -> Vec<Vec<u8>> {
    let sizes = [0, 1, 1000, 32 * 1024, 40_000, 200_000, 1024 * 1024, 1024 * 1024 + 1, 5_000_000];
    let mut files: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(seed, len)| noise(seed as u64, *len)).collect();
    files.push(b"text ".repeat(300_000));
    files.push(files[4].clone());
    files.push(files[8].clone());
    files
}

#[test]
fn a_tree_is_there_after_a_restart_and_after_the_index_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let files = files();
    let uploaded = upload(&store, &files);
    put(&store, b"root", uploaded.tree.as_bytes());
    assert_holds(&store, &uploaded, &files);
    drop(store);
    for lost in [None, Some("index"), Some("index/locations"), Some("index/boot")] {
        if let Some(lost) = lost {
            let lost = dir.path().join(lost);
            if lost.is_dir() {
                std::fs::remove_dir_all(lost).unwrap();
            } else {
                std::fs::remove_file(lost).unwrap();
            }
        }
        let store = open(dir.path());
        assert_holds(&store, &uploaded, &files);
        assert_eq!(store.fact(b"root").unwrap().unwrap().value, uploaded.tree.as_bytes());
    }
}

#[test]
fn the_same_bytes_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let files = files();
    let first = upload(&store, &files);
    let mut more = files.clone();
    more[7].splice(500_000..500_000, *b"inserted in the middle of a megabyte");
    let second = upload(&store, &more);
    assert!(first.stored > 7_000_000, "{first:?}");
    assert!(second.stored < 700_000, "{second:?}");
    assert_holds(&store, &second, &more);
}

#[test]
fn every_pack_is_a_valid_zstd_stream() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    upload(&store, &files());
    put(&store, b"key", b"value");
    drop(store);
    let mut kinds = (0, 0);
    for entry in std::fs::read_dir(dir.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let pack = std::fs::File::open(&path).unwrap();
        zstd::stream::copy_decode(pack, std::io::sink()).unwrap();
        match path.extension().unwrap().to_str().unwrap() {
            "pack" => kinds.0 += 1,
            _ => kinds.1 += 1,
        }
    }
    assert!(kinds.0 >= 1 && kinds.1 == 1, "sealed and open packs: {kinds:?}");
}

#[test]
fn a_torn_tail_is_cut_off_and_nothing_before_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 1 << 30);
    let files = files();
    let uploaded = upload(&store, &files);
    put(&store, b"root", b"1");
    let pack = std::fs::read_dir(dir.path().join("packs")).unwrap().next().unwrap().unwrap().path();
    let kept = std::fs::metadata(&pack).unwrap().len();
    upload(&store, &[noise(77, 3_000_000)]);
    put(&store, b"root", b"2");
    drop(store);
    let whole = std::fs::read(&pack).unwrap();
    let mut flipped = whole.clone();
    flipped[kept as usize + 1000] ^= 1;
    let zeroed = [&whole[..kept as usize], &vec![0; 100_000]].concat();
    let torn = [whole[..whole.len() - 7].to_vec(), whole[..kept as usize + 30].to_vec()];
    for (at, bytes) in torn.into_iter().chain([flipped, zeroed]).enumerate() {
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        std::fs::write(&pack, bytes).unwrap();
        let store = open_with(dir.path(), 1 << 30);
        assert_holds(&store, &uploaded, &files);
        assert_eq!(store.fact(b"root").unwrap().unwrap().value, b"1", "case {at}");
        put(&store, b"again", b"3");
        drop(store);
        let store = open_with(dir.path(), 1 << 30);
        assert_eq!(store.fact(b"again").unwrap().unwrap().value, b"3");
    }
}

#[test]
fn an_index_that_missed_commits_replays_them() {
    let dir = tempfile::tempdir().unwrap();
    let saved = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, b"a", b"old");
    put(&store, b"gone", b"soon");
    drop(store);
    copy(&dir.path().join("index"), &saved.path().join("index"));
    let store = open(dir.path());
    put(&store, b"a", b"new");
    let mut transaction = Transaction::default();
    transaction.remove(b"gone".to_vec(), Expected::Anything);
    store.commit(transaction).unwrap();
    let uploaded = upload(&store, &files());
    put(&store, b"root", uploaded.tree.as_bytes());
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    copy(&saved.path().join("index"), &dir.path().join("index"));
    let store = open(dir.path());
    assert_eq!(store.fact(b"a").unwrap().unwrap().value, b"new");
    assert_eq!(store.fact(b"gone").unwrap(), None);
    assert_holds(&store, &uploaded, &files());
}

#[test]
fn a_transaction_that_lost_a_race_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let wins: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8u8)
            .map(|racer| {
                let store = &store;
                scope.spawn(move || {
                    let mut wins = 0;
                    for round in 0..10u8 {
                        let mut transaction = Transaction::default();
                        transaction.put(vec![round], vec![racer], Expected::Absent);
                        match store.commit(transaction) {
                            Ok(_) => wins += 1,
                            Err(CommitError::Conflict) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    wins
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(wins, 10);
    let facts = store.scan_facts(b"", None, 100).unwrap();
    assert_eq!(facts.len(), 10);
}

#[test]
fn derived_values_are_remembered_found_and_forgotten_many_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let key = |number: u32| [&b"many/"[..], &number.to_be_bytes()].concat();
    let values: Vec<_> = (0..10_000).map(|number| (key(number), vec![number as u8])).collect();
    store.remember_all(&values).unwrap();
    store.remember(b"other", b"value").unwrap();
    let found = store.derived_all(&[key(9_999), key(10_000), b"other".to_vec()]).unwrap();
    assert_eq!(found, [Some(vec![9_999_u32 as u8]), None, Some(b"value".to_vec())]);
    assert_eq!(store.scan_derived(b"many/", Some(&key(9_997)), 10).unwrap(), values[9_998..]);
    assert_eq!(store.scan_derived(b"many/", None, 3).unwrap(), values[..3]);
    let keys: Vec<_> = values.into_iter().map(|(key, _)| key).collect();
    store.forget_all(&keys[1..]).unwrap();
    assert_eq!(store.scan_derived(b"", None, 10).unwrap().len(), 2);
    assert!(store.scan_facts(b"", None, 10).unwrap().is_empty(), "facts are something else");
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let mut progress = |_: OpenProgress| {};
    assert!(Store::open(dir.path(), Options::new(&mut progress)).is_err());
}

#[test]
fn rotten_bytes_are_found_out_and_never_returned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 1 << 30);
    let files = vec![noise(1, 100_000)];
    let uploaded = upload(&store, &files);
    let pack = std::fs::read_dir(dir.path().join("packs")).unwrap().next().unwrap().unwrap().path();
    let tree = store.tree(&uploaded.tree).unwrap();
    let Some(Node::File { digest, size, .. }) = tree.lookup(b"file-0000").unwrap() else {
        panic!()
    };
    let chunk = store.chunks_of(&tree, digest, *size).unwrap().remove(0);
    let location = store.locate(Kind::Chunk, &chunk.digest).unwrap().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[location.offset as usize + 64 + 50] ^= 4;
    std::fs::write(&pack, bytes).unwrap();
    let mut out = Vec::new();
    assert!(store.reader().unwrap().append_chunk(&chunk, &mut out).is_err());
    assert!(out.is_empty());
    let mut buffer = vec![0; location.stored as usize];
    assert!(store.read_stored(&[(chunk.digest, location)], vec![&mut buffer], Wait::Yes).is_err());
}
