//! What a check of the caches finds: every path that could not be served, by cache and store path.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::fs;
use std::path::Path;

use castore::fsck::{CheckOptions, Damage, Depth};
use castore::{Expected, Kind, Options, Transaction};
use narbridge::cache::CacheSettings;
use narbridge::fsck::{Flaw, HouseReport, Subject, TreeFlaw};
use narbridge::storehouse::Storehouse;
use narbridge::{Cache, CacheName};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

fn open_with(dir: &Path, pack_target: u64) -> Storehouse {
    Storehouse::open(dir, Options { pack_target, ..Options::new(&mut |_| ()) }).unwrap()
}

fn open(dir: &Path) -> Storehouse {
    open_with(dir, 1 << 30)
}

fn name(text: &str) -> CacheName {
    text.parse().unwrap()
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// Puts a path of one file, of several chunks where it is long, into the cache.
fn publish(cache: &Cache, hash: StorePathHash, contents: &[u8]) -> Sha256 {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, contents.len() as u64, &mut &contents[..]).unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("{}.nar", nar_hash.to_nix32());
    cache.upload_nar(url.parse().unwrap(), &nar[..], 1 << 30, None).unwrap();
    let (size, dir) = (nar.len(), cache.store_dir());
    let text = format!(
        "StorePath: {dir}/{hash}-made\nURL: nar/{url}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {size}\nReferences: \n",
        nar_hash.to_nix32(),
    );
    cache.publish(hash, text.as_bytes(), None).unwrap();
    nar_hash
}

fn hash(seed: u8) -> StorePathHash {
    StorePathHash::from([seed; 20])
}

fn path(seed: u8) -> String {
    format!("/nix/store/{}-made", hash(seed))
}

/// Two caches, the second of which is destroyed. Both hold paths 1 and 2, the first also 3.
fn house(dir: &Path) -> Storehouse {
    let house = open(dir);
    for text in ["kept", "gone"] {
        let cache = house.create_cache(&name(text), &CacheSettings::default(), None).unwrap();
        publish(&cache, hash(1), &noise(1, 1_000_000));
        publish(&cache, hash(2), &noise(2, 20_000));
    }
    publish(&house.cache("kept").unwrap(), hash(3), &noise(3, 20_000));
    house.destroy_cache(&name("gone")).unwrap();
    house
}

fn check(house: &Storehouse) -> HouseReport {
    let mut last = 0;
    let report = house.fsck(&Damage::default(), &mut |done| last = done).unwrap();
    assert_eq!(last, report.paths + report.nars + report.files);
    report
}

/// The damaged paths as `cache path`.
fn damaged(report: &HouseReport) -> Vec<String> {
    report.damaged_paths().iter().map(|(cache, path)| format!("{cache} {path}")).collect()
}

#[test]
fn what_was_published_is_checked_in_every_cache_and_trees_once() {
    let dir = tempfile::tempdir().unwrap();
    let report = check(&house(dir.path()));
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.caches, report.destroyed), (2, 1));
    assert_eq!((report.paths, report.nars, report.trees), (5, 5, 3));
    assert_eq!(report.bytes, 1_040_000);
    assert!(report.chunks > 4);
}

#[test]
fn a_rotten_chunk_is_told_of_every_path_that_holds_it() {
    let (_dir, house) = sealed_house_with_rot();
    // Without reading the data nothing is to be seen of it.
    assert!(check(&house).problems.is_empty());
    let options = CheckOptions { depth: Depth::Contents, threads: 0, progress: &mut |_| () };
    let packs = house.store().check(options).unwrap();
    let report = house.fsck(&packs.damage, &mut |_| ()).unwrap();
    let expected = [format!("gone {}", path(2)), format!("kept {}", path(2))];
    assert_eq!(damaged(&report), expected, "{:?}", report.problems);
    let rotten = castore::Digest::of(&noise(2, 20_000));
    for problem in &report.problems {
        let Flaw::Tree(tree) = &problem.flaw else { panic!("{problem}") };
        assert!(matches!(tree.first, TreeFlaw::DamagedChunk(chunk) if chunk == rotten));
        assert_eq!(problem.destroyed, problem.cache.as_str() == "gone");
    }
}

/// The same house, whose packs are sealed, with a byte of path 2's only chunk changed.
fn sealed_house_with_rot() -> (tempfile::TempDir, Storehouse) {
    let dir = tempfile::tempdir().unwrap();
    drop(house(dir.path()));
    // A small target seals what is there as soon as something is written.
    let house = open_with(dir.path(), 1);
    house.create_cache(&name("third"), &CacheSettings::default(), None).unwrap();
    drop(house);
    let house = open(dir.path());
    let chunk = castore::Digest::of(&noise(2, 20_000));
    let location = house.store().locate(Kind::Chunk, &chunk).unwrap().unwrap();
    let mut rotten = 0;
    for entry in fs::read_dir(dir.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = location.offset as usize;
        if bytes.get(at + 24..at + 56).is_some_and(|digest| digest == chunk.as_bytes()) {
            bytes[at + 64 + 100] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert_eq!(path.extension().unwrap(), "pack");
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
    (dir, house)
}

#[test]
fn a_path_whose_tree_is_gone_is_named_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let (key, fact) = house.store().scan_facts(b"path/", None, 1).unwrap().remove(0);
    let (mut record, absent) = (fact.value, castore::Digest::of(b"never stored"));
    let at = tree_field(&record);
    record[at..at + 32].copy_from_slice(absent.as_bytes());
    let mut transaction = Transaction::default();
    transaction.put(key, record, Expected::Anything);
    house.store().commit(transaction).unwrap();
    let report = check(&house);
    assert_eq!(damaged(&report), [format!("kept {}", path(1))], "{:?}", report.problems);
    let text = report.problems[0].to_string();
    assert!(text.contains(&absent.to_string()) && text.ends_with("is not in the store"), "{text}");
}

/// Where the digest of the tree lies in an encoded path record: field 3, 32 bytes.
fn tree_field(record: &[u8]) -> usize {
    record.windows(2).position(|two| two == [0x1a, 32]).unwrap() + 2
}

#[test]
fn records_that_say_nothing_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let (paths, nars) = (
        house.store().scan_facts(b"path/", None, 10).unwrap(),
        house.store().scan_facts(b"nar/", None, 10).unwrap(),
    );
    let mut transaction = Transaction::default();
    transaction.put(paths[0].0.clone(), b"\xff".to_vec(), Expected::Anything);
    transaction.put([&paths[0].0[..9], b"short"].concat(), Vec::new(), Expected::Anything);
    transaction.put(nars[0].0.clone(), b"\xff".to_vec(), Expected::Anything);
    house.store().commit(transaction).unwrap();
    let report = check(&house);
    let subjects: Vec<&Subject> = report.problems.iter().map(|found| &found.subject).collect();
    assert!(
        matches!(subjects[..], [Subject::Path(_), Subject::Path(_), Subject::Nar(_)]),
        "{:?}",
        report.problems
    );
}

#[test]
fn a_path_whose_nar_nobody_can_fetch_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let nars = house.store().scan_facts(b"nar/", None, 10).unwrap();
    let mut transaction = Transaction::default();
    transaction.remove(nars[0].0.clone(), Expected::Anything);
    house.store().commit(transaction).unwrap();
    let report = check(&house);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(matches!(report.problems[0].flaw, Flaw::NoNar));
}
