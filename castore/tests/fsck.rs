//! What a check of a store finds: every byte that changed, every pack that is gone, every record
//! that the index has lost, and nothing where nothing is wrong.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::fs;
use std::sync::Arc;

use castore::bytes::{LocalPacks, PackBackend};
use castore::fsck::{
    CheckOptions, CheckReport, Depth, Flaw, FooterFlaw, Problem, check_packs, measure,
};
use castore::pack::format::START_LEN;
use castore::pack::{Footer, FrameEncoder, Kind, PackId, Row};
use castore::{Digest, Options, Store};
use stores::{noise, open_with, packs_of, put, upload};
use tempfile::TempDir;

const TARGET: u64 = 300_000;

/// A store of several sealed packs, closed.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), TARGET);
    for seed in 0..4 {
        let files = [noise(seed, 250_000), noise(100 + seed, 1000), b"text ".repeat(5000)];
        let uploaded = upload(&store, &files);
        put(&store, &[seed as u8], uploaded.tree.as_bytes());
    }
    drop(store);
    dir
}

fn check(dir: &TempDir, depth: Depth) -> CheckReport {
    let backend = LocalPacks::open(&dir.path().join("packs")).unwrap();
    check_packs(&backend, CheckOptions { depth, threads: 2, progress: &mut |_| () }).unwrap()
}

fn check_open(store: &Store, depth: Depth) -> CheckReport {
    store.check(CheckOptions { depth, threads: 2, progress: &mut |_| () }).unwrap()
}

#[test]
fn a_sound_store_has_no_problems_at_any_depth() {
    let dir = store();
    let (sealed, open) = packs_of(dir.path());
    assert!(sealed.len() >= 2 && !open.is_empty(), "{sealed:?} {open:?}");
    for depth in [Depth::Footers, Depth::Checksums, Depth::Contents] {
        let report = check(&dir, depth);
        assert!(report.problems.is_empty(), "{depth:?}: {:?}", report.problems);
        assert!(report.records > 20 && report.bytes > 1_000_000, "{report:?}");
        let store = open_with(dir.path(), TARGET);
        let report = check_open(&store, depth);
        assert!(report.problems.is_empty(), "{depth:?}: {:?}", report.problems);
    }
}

#[test]
fn progress_ends_with_all_packs_and_all_bytes() {
    let dir = store();
    let backend = LocalPacks::open(&dir.path().join("packs")).unwrap();
    let mut all = Vec::new();
    let progress = &mut |news| all.push(news);
    check_packs(&backend, CheckOptions { depth: Depth::Contents, threads: 0, progress }).unwrap();
    let last = all.last().unwrap();
    assert_eq!((last.packs, last.bytes), (last.packs_total, last.bytes_total));
    assert!(all.is_sorted_by_key(|news| (news.packs, news.bytes)));
}

#[test]
fn every_flipped_byte_of_a_sealed_pack_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 1500);
    for seed in 0..3 {
        let uploaded = upload(&store, &[noise(seed, 300), b"x".repeat(900)]);
        put(&store, &[seed as u8], uploaded.tree.as_bytes());
    }
    drop(store);
    let (sealed, _) = packs_of(dir.path());
    let whole = fs::read(&sealed[0]).unwrap();
    assert!(whole.len() < 4000, "{}", whole.len());
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&sealed[0], &flipped).unwrap();
        let backend = LocalPacks::open(&dir.path().join("packs")).unwrap();
        let options = CheckOptions { depth: Depth::Contents, threads: 1, progress: &mut |_| () };
        let report = check_packs(&backend, options).unwrap();
        assert!(!report.problems.is_empty(), "byte {at} of {}", whole.len());
    }
}

#[test]
fn a_pack_that_was_cut_short_does_not_hide_what_is_wrong_elsewhere() {
    let dir = store();
    let (sealed, _) = packs_of(dir.path());
    let whole = fs::read(&sealed[0]).unwrap();
    fs::write(&sealed[0], &whole[..whole.len() - 10]).unwrap();
    let mut rotten = fs::read(&sealed[1]).unwrap();
    rotten[START_LEN + 64 + 5] ^= 1;
    fs::write(&sealed[1], rotten).unwrap();
    let mut progress = |_| ();
    assert!(Store::open(dir.path(), Options::new(&mut progress)).is_err());
    let problems = check(&dir, Depth::Contents).problems;
    let cut = |problem: &Problem| {
        matches!(problem, Problem::Footer { flaw: FooterFlaw::NotWhole, records, whole_to, .. }
            if *records > 0 && *whole_to > 0)
    };
    let rotten =
        |problem: &Problem| matches!(problem, Problem::Record { flaw: Flaw::Checksum, .. });
    assert!(problems.iter().any(cut), "{problems:?}");
    assert!(problems.iter().any(rotten), "{problems:?}");
}

#[test]
fn a_header_of_another_record_is_told_from_one_that_has_rotted() {
    let dir = store();
    let (sealed, _) = packs_of(dir.path());
    let whole = fs::read(&sealed[0]).unwrap();
    for (at, expected) in [(0, "its header is not one"), (30, "another record lies in its place")] {
        let mut rotten = whole.clone();
        rotten[START_LEN + at] ^= 1;
        fs::write(&sealed[0], rotten).unwrap();
        let problems = check(&dir, Depth::Contents).problems;
        assert!(problems[0].to_string().ends_with(expected), "{problems:?}");
        assert!(check(&dir, Depth::Footers).problems.is_empty());
    }
}

#[test]
fn packs_that_come_and_go_behind_the_index_are_named() {
    let dir = store();
    let store = open_with(dir.path(), TARGET);
    let (sealed, _) = packs_of(dir.path());
    let gone: PackId = sealed[0].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::remove_file(&sealed[0]).unwrap();
    let stranger = PackId::from_bytes([7; 16]);
    put_pack(&dir, stranger, &[(Kind::Chunk, &b"a"[..], Digest::of(b"a"))]);
    let problems = check_open(&store, Depth::Footers).problems;
    let named = |wanted: fn(&Problem) -> bool, pack| {
        problems.iter().any(|problem| wanted(problem) && problem.pack() == Some(pack))
    };
    assert!(named(|problem| matches!(problem, Problem::PackMissing { .. }), gone), "{problems:?}");
    let unknown = |problem: &Problem| matches!(problem, Problem::PackUnknown { .. });
    assert!(named(unknown, stranger), "{problems:?}");
}

#[test]
fn a_lost_transaction_is_missed_with_an_index_and_without() {
    let dir = store();
    let (sealed, open) = packs_of(dir.path());
    // Each pack holds a fact, and the one that is open the last.
    fs::remove_file(&sealed[0]).unwrap();
    let missing = |problem: &Problem| matches!(problem, Problem::FactsMissing { .. });
    let problems = check(&dir, Depth::Contents).problems;
    assert!(problems.iter().any(missing), "{problems:?}");
    let store = open_with(dir.path(), TARGET);
    let problems = check_open(&store, Depth::Contents).problems;
    assert!(problems.iter().any(missing), "{problems:?}");
    drop(store);
    // Only the index still knows that there was one behind the last.
    fs::remove_file(&open[0]).unwrap();
    let store = open_with(dir.path(), TARGET);
    let problems = check_open(&store, Depth::Footers).problems;
    assert!(problems.iter().any(missing), "{problems:?}");
}

#[test]
fn rot_in_a_pack_that_still_grows_is_found_while_its_store_is_open() {
    let dir = store();
    let (_, open) = packs_of(dir.path());
    let store = open_with(dir.path(), TARGET);
    let mut bytes = fs::read(&open[0]).unwrap();
    bytes[START_LEN + 70] ^= 1;
    fs::write(&open[0], bytes).unwrap();
    let problems = check_open(&store, Depth::Footers).problems;
    let lost = |problem: &Problem| matches!(problem, Problem::Unsealed { offset: 32, .. });
    assert!(problems.iter().any(lost), "{problems:?}");
}

#[test]
fn damage_is_where_the_store_would_read() {
    let dir = store();
    let (sealed, _) = packs_of(dir.path());
    let whole = fs::read(&sealed[0]).unwrap();
    let header = &whole[START_LEN..];
    let (kind, digest) = (header[9], Digest::from_slice(&header[24..56]).unwrap());
    let kind = Kind::from_number(kind).unwrap();
    let mut rotten = whole.clone();
    rotten[START_LEN + 64] ^= 1;
    fs::write(&sealed[0], rotten).unwrap();
    let store = open_with(dir.path(), TARGET);
    let damage = check_open(&store, Depth::Contents).damage;
    assert_eq!(damage.len(), 1);
    assert!(damage.hits(&store, &store.locate(kind, &digest).unwrap().unwrap()));
}

/// Puts a sealed pack in place, whose records are what they are told to be.
fn put_pack(dir: &TempDir, id: PackId, records: &[(Kind, &[u8], Digest)]) {
    let (mut encoder, mut bytes) =
        (FrameEncoder::new().unwrap(), castore::pack::format::start(id).to_vec());
    let mut rows = Vec::new();
    for (kind, plain, digest) in records {
        let offset = bytes.len() as u64;
        let header = encoder.append(&mut bytes, *kind, *digest, plain).unwrap();
        let (stored, plain) = (header.stored, plain.len() as u32);
        rows.push(Row { digest: *digest, kind: *kind, pack: 0, offset, stored, plain });
    }
    rows.sort_by_key(Row::key);
    let mut encoded = Vec::new();
    rows.iter().for_each(|row| row.append(&mut encoded));
    let end = bytes.len() as u64;
    Footer::append(&mut bytes, end, &encoded, 0, 0).unwrap();
    LocalPacks::open(&dir.path().join("packs")).unwrap().put(id, bytes).unwrap();
}

#[test]
fn contents_that_only_their_checksum_vouches_for_are_found() {
    let id = PackId::from_bytes([9; 16]);
    let lie = Digest::of(b"something else");
    for (kind, plain, digest, expected) in [
        (Kind::Chunk, &b"bytes"[..], lie, "its bytes have another digest"),
        (Kind::Tree, &b"\xff"[..], Digest::of(b"\xff"), "a tree is not valid protobuf"),
        (Kind::ChunkList, &b"\xff"[..], lie, "a chunk list is not valid protobuf"),
        (Kind::Claim, &b"data"[..], lie, "it is a claim and has data"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put_pack(&dir, id, &[(kind, plain, digest)]);
        let problems = check(&dir, Depth::Contents).problems;
        assert!(problems.len() == 1, "{problems:?}");
        assert!(problems[0].to_string().contains(expected), "{problems:?}");
    }
}

#[test]
fn a_pack_that_is_all_rot_does_not_fill_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let digests: Vec<Digest> = (0..500u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let records: Vec<_> = digests.iter().map(|digest| (Kind::Chunk, &b"no"[..], *digest)).collect();
    put_pack(&dir, PackId::from_bytes([1; 16]), &records);
    let report = check(&dir, Depth::Contents);
    assert_eq!(report.problems.len(), 101);
    assert!(matches!(report.problems[100], Problem::MoreRecords { records: 400, .. }));
    assert_eq!(report.damage.len(), 500);
}

#[test]
fn packs_are_measured_where_listing_does_not_tell_their_length() {
    let dir = store();
    let backend: Arc<dyn PackBackend> =
        Arc::new(LocalPacks::open(&dir.path().join("packs")).unwrap());
    for (listed, len) in measure(&*backend).unwrap() {
        assert_eq!(backend.open(listed.id, listed.sealed).unwrap().len().unwrap(), len);
    }
}
