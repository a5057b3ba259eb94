//! Healing: paths whose bytes are lost are not promised to anybody, and the next push brings them back.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::{Digest, Kind, Options};
use granary_api::sync::{SyncPaths, TREE_FIELD};
use narbridge::cache::{CacheSettings, PushOutcome, PushedPath, Pusher};
use narbridge::scrub::{BrokenReport, ScrubOptions, ScrubReport};
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StorePath, StorePathHash};
use sha2::Digest as _;
use tempfile::TempDir;

fn open(dir: &Path) -> Storehouse {
    Storehouse::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// What the file of a path holds. That of path 1 is of several chunks.
fn contents(seed: u8) -> Vec<u8> {
    noise(seed, if seed == 1 { 1_000_000 } else { 20_000 })
}

fn nar(contents: &[u8], executable: bool) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", executable, contents.len() as u64, &mut &contents[..]).unwrap();
    nar.finish().unwrap()
}

fn nar_hash(nar: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(nar)))
}

fn hash(seed: u8) -> StorePathHash {
    StorePathHash::from([seed; 20])
}

fn path(seed: u8) -> String {
    format!("/nix/store/{}-made", hash(seed))
}

/// Puts a path into the cache as Nix does.
fn put(cache: &Cache, seed: u8, nar: &[u8]) {
    let nar_hash = nar_hash(nar).to_nix32();
    let url = format!("{nar_hash}.nar");
    cache.upload_nar(url.parse().unwrap(), nar, 1 << 30, None).unwrap();
    let text = format!(
        "StorePath: {}\nURL: nar/{url}\nCompression: none\nNarHash: sha256:{nar_hash}\n\
         NarSize: {}\nReferences: \n",
        path(seed),
        nar.len(),
    );
    cache.publish(hash(seed), text.as_bytes(), None).unwrap();
}

fn publish(cache: &Cache, seed: u8) {
    put(cache, seed, &nar(&contents(seed), false));
}

/// Two caches with paths 1 and 2, the first one with 3 as well; all of it in a sealed pack.
fn house() -> (TempDir, Storehouse) {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    for text in ["team", "other"] {
        let cache = house.create_cache(&text.parse().unwrap(), &CacheSettings::default(), None);
        let cache = cache.unwrap();
        publish(&cache, 1);
        publish(&cache, 2);
    }
    publish(&team(&house), 3);
    house.store().seal_open().unwrap();
    (dir, house)
}

fn team(house: &Storehouse) -> Arc<Cache> {
    house.cache("team").unwrap()
}

/// The only chunk of a path that has one.
fn chunk(seed: u8) -> Digest {
    Digest::of(&contents(seed))
}

/// Changes a byte of a record where it lies; the file, and what it held before.
fn rot(dir: &Path, house: &Storehouse, kind: Kind, digest: &Digest) -> (PathBuf, Vec<u8>) {
    let location = house.store().locate(kind, digest).unwrap().unwrap();
    let at = location.offset as usize;
    for entry in fs::read_dir(dir.join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if bytes.get(at + 24..at + 56).is_some_and(|found| found == digest.as_bytes()) {
            assert_eq!(path.extension().unwrap(), "pack");
            let mut rotten = bytes.clone();
            rotten[at + 64 + location.stored as usize / 2] ^= 1;
            fs::write(&path, rotten).unwrap();
            return (path, bytes);
        }
    }
    panic!("{digest} is in no pack");
}

fn scrub(house: &Storehouse) -> ScrubReport {
    house.scrub(ScrubOptions::default(), &mut |_| ()).unwrap().unwrap()
}

fn broken(report: &BrokenReport) -> Vec<String> {
    report.paths.iter().map(|(cache, path)| format!("{cache} {path}")).collect()
}

/// The NAR of a path under a suffix, decoded; `None` where there is none.
fn read(cache: &Cache, seed: u8, suffix: &str) -> Option<Result<Vec<u8>, String>> {
    let name = format!("{}.nar{suffix}", nar_hash(&nar(&contents(seed), false)).to_nix32());
    let file = match cache.nar(name.parse().unwrap()) {
        Ok(file) => file?,
        Err(error) => return Some(Err(error.to_string())),
    };
    let mut bytes = Vec::new();
    let mut body = file.body(None).unwrap();
    loop {
        match body.next_window() {
            Ok(Some(window)) => bytes.extend_from_slice(&window),
            Ok(None) => break,
            Err(error) => return Some(Err(error.to_string())),
        }
    }
    if suffix == ".zst" {
        bytes = zstd::stream::decode_all(&bytes[..]).unwrap();
    }
    Some(Ok(bytes))
}

fn pusher(cache: &Cache) -> Pusher {
    let holder = cache.holder();
    Pusher { holders: vec![holder], intake: holder, subject: "ci".to_owned(), reads: true }
}

fn missing(cache: &Cache) -> Vec<StorePathHash> {
    cache.missing_paths((1..=3).map(hash).collect(), &pusher(cache)).unwrap()
}

fn assert_served(cache: &Cache, seed: u8) {
    assert!(cache.narinfo(hash(seed)).unwrap().is_some(), "{seed}");
    assert!(cache.listing(hash(seed)).unwrap().is_some(), "{seed}");
    for suffix in ["", ".zst"] {
        let whole = nar(&contents(seed), false);
        assert!(read(cache, seed, suffix).unwrap().unwrap() == whole, "{seed}{suffix}");
    }
    assert!(!missing(cache).contains(&hash(seed)), "{seed}");
}

fn assert_absent(cache: &Arc<Cache>, seed: u8) {
    assert!(cache.narinfo(hash(seed)).unwrap().is_none(), "{seed}");
    assert!(cache.known_narinfo(hash(seed)).flatten().is_none(), "{seed}");
    assert!(cache.listing(hash(seed)).unwrap().is_none(), "{seed}");
    for suffix in ["", ".zst"] {
        assert!(read(cache, seed, suffix).is_none(), "{seed}{suffix}");
    }
    assert_eq!(missing(cache), [hash(seed)]);
    let question = SyncPaths { hashes: hash(seed).as_bytes().to_vec(), ..SyncPaths::default() };
    let answers: Vec<_> = cache.sync(&question).unwrap().map(Result::unwrap).collect();
    assert!(answers.len() == 1 && answers[0].narinfo.is_empty(), "{answers:?}");
}

#[test]
fn a_path_that_a_scrub_finds_broken_is_gone_until_it_is_pushed_again() {
    let (dir, house) = house();
    (1..=3).for_each(|seed| assert_served(&team(&house), seed));
    rot(dir.path(), &house, Kind::Chunk, &chunk(2));
    let report = scrub(&house);
    assert_eq!(report.packs.damaged, 1, "{report:?}");
    let expected = [format!("other {}", path(2)), format!("team {}", path(2))];
    assert_eq!(broken(&report.broken.unwrap()), expected);
    let check = |house: &Storehouse| {
        assert_absent(&team(house), 2);
        [1, 3].into_iter().for_each(|seed| assert_served(&team(house), seed));
    };
    check(&house);
    drop(house);
    let house = open(dir.path());
    check(&house);
    // Nobody can publish what is not there by naming it.
    let text = format!(
        "StorePath: {}\nURL: nar/{hash}.nar\nCompression: none\nNarHash: sha256:{hash}\n\
         NarSize: {}\nReferences: \n",
        path(2),
        nar(&contents(2), false).len(),
        hash = nar_hash(&nar(&contents(2), false)).to_nix32(),
    );
    assert!(team(&house).publish(hash(2), text.as_bytes(), None).is_err());

    publish(&team(&house), 2);
    assert_served(&team(&house), 2);
    assert!(house.cache("other").unwrap().narinfo(hash(2)).unwrap().is_some());
    drop(house);
    let house = open(dir.path());
    (1..=3).for_each(|seed| assert_served(&team(&house), seed));
    let report = scrub(&house);
    assert_eq!((report.packs.damaged, report.broken.unwrap().trees), (0, 0));
}

#[test]
fn who_is_sent_a_broken_nar_is_the_last_one() {
    for suffix in ["", ".zst"] {
        let (dir, house) = house();
        let cache = team(&house);
        // Narinfos and plans are in memory.
        (1..=3).for_each(|seed| assert_served(&cache, seed));
        rot(dir.path(), &house, Kind::Chunk, &chunk(2));
        assert!(read(&cache, 2, suffix).unwrap().is_err());
        assert_absent(&cache, 2);
        publish(&cache, 2);
        (1..=3).for_each(|seed| assert_served(&cache, seed));
    }
}

#[test]
fn a_tree_that_is_damaged_is_brought_again_as_well() {
    let (dir, house) = house();
    let tree = tree_of(&team(&house), 1);
    drop(house);
    let house = open(dir.path());
    rot(dir.path(), &house, Kind::Tree, &tree);
    let report = scrub(&house);
    assert_eq!(report.packs.damaged, 1, "{report:?}");
    assert_absent(&team(&house), 1);
    publish(&team(&house), 1);
    (1..=3).for_each(|seed| assert_served(&team(&house), seed));
}

fn tree_of(cache: &Cache, seed: u8) -> Digest {
    let narinfo = cache.narinfo(hash(seed)).unwrap().unwrap().text;
    let text = str::from_utf8(&narinfo).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(TREE_FIELD)).unwrap();
    line.trim_start_matches(": ").parse().unwrap()
}

#[test]
fn what_comes_back_with_another_path_mends_this_one() {
    let (dir, house) = house();
    rot(dir.path(), &house, Kind::Chunk, &chunk(2));
    scrub(&house);
    assert_absent(&team(&house), 2);
    put(&team(&house), 9, &nar(&contents(2), true));
    // Whoever wants to push it finds that it need not be.
    assert_eq!(missing(&team(&house)), []);
    assert_served(&team(&house), 2);
}

#[test]
fn a_pack_that_is_put_back_mends_everything() {
    let (dir, house) = house();
    let (pack, whole) = rot(dir.path(), &house, Kind::Chunk, &chunk(3));
    scrub(&house);
    assert_absent(&team(&house), 3);
    fs::write(pack, whole).unwrap();
    let report = scrub(&house);
    assert_eq!((report.packs.restored, report.broken.unwrap().mended), (1, 1));
    (1..=3).for_each(|seed| assert_served(&team(&house), seed));
}

#[test]
fn a_pack_that_is_gone_breaks_what_was_in_it() {
    let (dir, house) = house();
    publish(&house.cache("other").unwrap(), 4);
    house.store().seal_open().unwrap();
    let (pack, _) = rot(dir.path(), &house, Kind::Chunk, &chunk(4));
    fs::remove_file(pack).unwrap();
    let report = scrub(&house);
    assert_eq!(report.packs.lost.len(), 1, "{report:?}");
    assert_eq!(broken(&report.broken.unwrap()), [format!("other {}", path(4))]);
    drop(house);
    let house = open(dir.path());
    assert!(house.cache("other").unwrap().narinfo(hash(4)).unwrap().is_none());
    publish(&house.cache("other").unwrap(), 4);
    assert!(house.cache("other").unwrap().narinfo(hash(4)).unwrap().is_some());
    (1..=3).for_each(|seed| assert_served(&team(&house), seed));
}

#[test]
fn an_index_that_is_remade_has_its_marks_found_again() {
    let (dir, house) = house();
    rot(dir.path(), &house, Kind::Chunk, &chunk(2));
    scrub(&house);
    drop(house);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let house = open(dir.path());
    assert!(team(&house).narinfo(hash(2)).unwrap().is_some());
    assert_eq!(scrub(&house).packs.damaged, 1);
    assert_absent(&team(&house), 2);
}

#[test]
fn a_client_that_cuts_chunks_itself_is_told_to_send_what_turns_out_to_be_damaged() {
    let (elsewhere, other) = house();
    let (dir, house) = house();
    let cache = team(&house);
    // Nobody knows of it, and the tree was not verified by a push before.
    rot(dir.path(), &house, Kind::Chunk, &chunk(2));
    let tree = tree_of(&cache, 2);
    let whole = nar(&contents(2), false);
    let push = || {
        let info = NarInfo {
            store_path: StorePath::new(hash(2), "made").unwrap(),
            url: "",
            compression: None,
            file_hash: None,
            file_size: None,
            nar_hash: nar_hash(&whole),
            nar_size: whole.len() as u64,
            references: Vec::new(),
            deriver: None,
            system: None,
            signatures: Vec::new(),
            ca: None,
            unknown: Vec::new(),
            flags: Flags::default(),
        };
        let tree = other.store().encoded_tree(&tree).unwrap();
        let path = PushedPath { info, tree, lists: Vec::new() };
        cache.verify_pushed(path, &pusher(&cache), 1 << 30, &mut false, &|| true).unwrap()
    };
    let PushOutcome::Missing(missing) = push() else { panic!("nothing is missing") };
    assert_eq!(missing, [chunk(2)]);
    let records = team(&other).chunk_records(&missing).unwrap().read_all().unwrap();
    cache.take_chunks(&records[..], &pusher(&cache)).unwrap();
    let PushOutcome::Verified(path) = push() else { panic!("something is missing") };
    cache.publish_verified(&[*path]).into_iter().for_each(|done| done.unwrap());
    (1..=3).for_each(|seed| assert_served(&cache, seed));
    drop(elsewhere);
}
