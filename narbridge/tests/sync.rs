//! What a lazy reader may count on: every path that a cache shows can be had whole by its chunks,
//! vouched for by the cache itself, and nothing else can be had.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use castore::pack::{FrameDecoder, HEADER_LEN, RecordHeader};
use castore::tree::{ChunkList, Tree};
use castore::{Digest, Holder, Options};
use granary_api::sync::{
    MAX_PATHS_AT_ONCE, MAX_SYNC_ANSWER, PathProfile, SIGNATURE_FIELD, SyncPaths, SyncedPath,
    TREE_FIELD, root_fingerprint,
};
use narbridge::cache::{CacheSettings, NarName, Profile, PushOutcome, PushedPath, Pusher};
use narbridge::compression::Compression;
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use nix_compat::signature::{Signature, SigningKey};
use nix_compat::store_path::StorePath;
use sha2::Digest as _;

fn open(dir: &Path) -> Storehouse {
    Storehouse::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn cache(house: &Storehouse, name: &str) -> Arc<Cache> {
    let key = SigningKey::generate(&format!("{name}-1"), [7; 32]).unwrap();
    house.create_cache(&name.parse().unwrap(), &CacheSettings::default(), Some(key)).unwrap();
    house.cache(name).unwrap()
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn file(nar: &mut Writer<Vec<u8>>, name: &[u8], bytes: &[u8]) {
    nar.file(name, false, bytes.len() as u64, &mut &bytes[..]).unwrap();
}

/// Files of no, one and many chunks, around the length from which files are cut as they come, and
/// the same ones twice.
fn nar(seed: u8) -> Vec<u8> {
    let lengths = [0, 1, 32_768, 32_769, 200_000, 700_000, 1_048_576, 1_048_577, 3_000_000];
    let mut nar = Writer::new(Vec::new());
    nar.enter_directory(b"").unwrap();
    for folder in [b"a", b"b"] {
        nar.enter_directory(folder).unwrap();
        for length in lengths {
            file(&mut nar, format!("{length:09}").as_bytes(), &noise(seed, length));
        }
        nar.leave_directory().unwrap();
    }
    nar.leave_directory().unwrap();
    nar.finish().unwrap()
}

fn nar_of_file(bytes: &[u8]) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    file(&mut nar, b"", bytes);
    nar.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(bytes)))
}

fn path(number: u8) -> StorePath {
    StorePath::new([number; 20].into(), "path").unwrap()
}

fn info<'a>(number: u8, nar: &[u8], references: &[u8], url: &'a str) -> NarInfo<'a> {
    NarInfo {
        store_path: path(number),
        url,
        compression: Some("none"),
        file_hash: None,
        file_size: None,
        nar_hash: sha256(nar),
        nar_size: nar.len() as u64,
        references: references.iter().map(|number| path(*number)).collect(),
        deriver: None,
        system: None,
        signatures: Vec::new(),
        ca: None,
        unknown: Vec::new(),
        flags: Flags::default(),
    }
}

/// As Nix uploads a path.
fn put(cache: &Cache, number: u8, nar: &[u8], references: &[u8], blind: Option<&str>) {
    let hash = sha256(nar);
    let name = NarName { hash, compression: Some(Compression::None) };
    cache.upload_nar(name, nar, 1 << 30, blind).unwrap();
    let url = format!("nar/{}.nar", hash.to_nix32());
    let text = info(number, nar, references, &url).render(cache.store_dir());
    cache.publish(path(number).hash(), text.as_bytes(), blind).unwrap();
}

fn pusher(cache: &Cache, reads: bool, others: &[&Cache]) -> Pusher {
    let intake = if reads { cache.holder() } else { cache.holder_for("bob") };
    let others = others.iter().map(|other| other.holder());
    let holders: Vec<Holder> = [intake].into_iter().chain(others).collect();
    Pusher { holders, intake, subject: "bob".to_owned(), reads }
}

fn question(numbers: &[u8], closure: bool) -> SyncPaths {
    let hashes = numbers.iter().flat_map(|number| *path(*number).hash().as_bytes()).collect();
    SyncPaths { hashes, closure, trees: true, known: Vec::new() }
}

fn sync(cache: &Arc<Cache>, question: &SyncPaths) -> Vec<SyncedPath> {
    cache.sync(question).unwrap().map(|path| path.unwrap()).collect()
}

fn one(cache: &Arc<Cache>, number: u8) -> SyncedPath {
    sync(cache, &question(&[number], false)).pop().unwrap()
}

fn chunks(path: &SyncedPath) -> Vec<Digest> {
    let tree = Tree::decode(&path.tree).unwrap();
    let listed = path.lists.iter().flat_map(|list| ChunkList::decode(list).unwrap().chunks);
    let mut chunks: BTreeSet<Digest> = listed.map(|chunk| chunk.digest).collect();
    let whole = tree.files().into_iter().filter(|(blob, _)| tree.list_of(blob).is_none());
    chunks.extend(whole.filter(|(_, size)| *size > 0).map(|(blob, _)| blob));
    chunks.into_iter().collect()
}

/// The digests of records, each decoded and held against its bytes.
fn digests(mut records: &[u8]) -> Vec<Digest> {
    let (mut decoder, mut found) = (FrameDecoder::new().unwrap(), Vec::new());
    while !records.is_empty() {
        let header = RecordHeader::parse(records).unwrap();
        let (frames, later) = records[HEADER_LEN..].split_at(header.stored as usize);
        assert_eq!(header.checksum, header.expected_checksum(frames));
        let mut plain = Vec::new();
        decoder.append(&mut plain, frames, header.plain as usize).unwrap();
        assert_eq!(Digest::of(&plain), header.digest);
        found.push(header.digest);
        records = later;
    }
    found
}

fn read(cache: &Cache, wanted: &[Digest]) -> Vec<Digest> {
    let records = cache.chunk_records(wanted).unwrap();
    let length = records.len();
    let bytes = records.read_all().unwrap();
    assert_eq!(bytes.len() as u64, length);
    digests(&bytes)
}

/// Every chunk of the path can be had from the cache that shows it.
fn is_whole(cache: &Arc<Cache>, number: u8) {
    let wanted = chunks(&one(cache, number));
    assert!(wanted.len() > 20);
    assert_eq!(read(cache, &wanted), wanted, "{}", cache.name());
}

#[test]
fn every_door_makes_a_path_whole_for_lazy_readers() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let nar = nar(1);
    // Each has the bytes from before once the first is through.
    let first = cache(&house, "first");
    put(&first, 1, &nar, &[], None);
    is_whole(&first, 1);

    let blind = cache(&house, "nix-write-only");
    put(&blind, 1, &nar, &[], Some("bob"));
    is_whole(&blind, 1);
    put(&blind, 2, &nar, &[], Some("bob"));
    is_whole(&blind, 2);

    for reads in [true, false] {
        let attic = cache(&house, &format!("attic-{reads}"));
        let pusher = pusher(&attic, reads, &[]);
        for _ in 0..2 {
            attic.publish_nar(&info(1, &nar, &[], ""), &nar[..], &pusher, 1 << 30).unwrap();
            is_whole(&attic, 1);
        }
    }

    let SyncedPath { tree, lists, .. } = one(&first, 1);
    let wanted = chunks(&one(&first, 1));
    let records = first.chunk_records(&wanted).unwrap().read_all().unwrap();
    for (name, reads, sends) in
        [("push", true, true), ("push-write-only", false, true), ("push-linked", true, false)]
    {
        let pushed = cache(&house, name);
        let others: &[&Cache] = if sends { &[] } else { &[&first] };
        let pusher = pusher(&pushed, reads, others);
        let publish = || {
            let info = info(1, &nar, &[], "");
            let (tree, lists) = (tree.clone(), lists.clone());
            let path = PushedPath { info, tree, lists };
            let (gathered, wanted) = (&mut false, &|| true);
            let verified = pushed.verify_pushed(path, &pusher, 1 << 30, gathered, wanted);
            match verified.unwrap() {
                PushOutcome::Verified(path) => {
                    pushed.publish_verified(&[*path]).remove(0).unwrap();
                    None
                }
                PushOutcome::Missing(missing) => Some(missing.len()),
            }
        };
        if sends {
            assert_eq!(publish(), Some(wanted.len()));
            pushed.take_chunks(&records[..], &pusher).unwrap();
            if !reads {
                assert_eq!(read(&pushed, &wanted), [], "not before they are published");
            }
        }
        assert_eq!(publish(), None);
        is_whole(&pushed, 1);
    }
    drop((first, blind, house));

    // And after the index is lost.
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let house = open(dir.path());
    house.caches().iter().for_each(|cache| is_whole(cache, 1));
    assert_eq!(house.caches().len(), 7);
}

#[test]
fn a_chunk_of_another_cache_is_as_absent_as_one_that_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (mine, theirs) = (cache(&house, "mine"), cache(&house, "theirs"));
    put(&theirs, 1, &nar(1), &[], None);
    put(&mine, 2, &nar_of_file(b"mine"), &[], None);
    let wanted = chunks(&one(&theirs, 1));
    let asked: Vec<Digest> = wanted.iter().copied().chain([Digest::of(b"mine")]).collect();
    assert_eq!(read(&mine, &asked), [Digest::of(b"mine")]);
    assert_eq!(one(&mine, 1), SyncedPath { hash: vec![1; 20], ..SyncedPath::default() });
}

#[test]
fn what_an_uploader_says_of_trees_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    let nar = nar_of_file(b"hello");
    put(&cache, 1, &nar, &[], None);
    let url = format!("nar/{}.nar", sha256(&nar).to_nix32());
    let mut planted = info(1, &nar, &[], &url);
    let (wrong_tree, wrong) = ("00".repeat(32), format!("team-1:{}==", "A".repeat(86)));
    planted.unknown = vec![(TREE_FIELD, &wrong_tree), (SIGNATURE_FIELD, &wrong)];
    let text = planted.render(cache.store_dir());
    assert!(text.contains(&wrong));
    cache.publish(path(1).hash(), text.as_bytes(), None).unwrap();

    let text = cache.narinfo(path(1).hash()).unwrap().unwrap().text;
    let narinfo = NarInfo::parse(&text, cache.store_dir()).unwrap();
    let tree = Digest::of(&one(&cache, 1).tree).to_string();
    let root = root_fingerprint(&narinfo.fingerprint(cache.store_dir()), &tree);
    let [(TREE_FIELD, named), (SIGNATURE_FIELD, signature)] = narinfo.unknown[..] else {
        panic!("{:?}", narinfo.unknown)
    };
    let signature: Signature = signature.parse().unwrap();
    assert_eq!(named, tree);
    assert!(cache.keys()[0].public_key().verify(&root, &signature));
}

#[test]
fn every_key_that_signs_vouches_for_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    put(&cache(&house, "team"), 1, &nar_of_file(b"hello"), &[], None);
    let signers = || {
        let cache = house.cache("team").unwrap();
        let path = one(&cache, 1);
        let narinfo = NarInfo::parse(&path.narinfo, cache.store_dir()).unwrap();
        let tree = Digest::of(&path.tree).to_string();
        let root = root_fingerprint(&narinfo.fingerprint(cache.store_dir()), &tree);
        let signed = narinfo.unknown.iter().filter(|(field, _)| *field == SIGNATURE_FIELD);
        let signed = signed.map(|(_, text)| {
            let signature: Signature = text.parse().unwrap();
            let mut keys = cache.keys().iter().map(|key| key.public_key());
            assert!(keys.any(|key| key.verify(&root, &signature)), "{signature}");
            signature.name().to_owned()
        });
        signed.collect::<Vec<_>>()
    };
    assert_eq!(signers(), ["team-1"]);
    let team = "team".parse().unwrap();
    let newer = SigningKey::generate("newer", [9; 32]).unwrap();
    house.add_key(&team, Some(newer), None).unwrap();
    assert_eq!(signers(), ["newer", "team-1"]);
    house.retire_key(&team, "team-1", 0).unwrap();
    assert_eq!(signers(), ["newer"]);
}

#[test]
fn a_closure_is_walked_nearest_first_and_without_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    // 1 -> 2, 3; 2 -> 4; 3 -> 4, 9 (absent); 4 -> 4, 1: a circle, and itself.
    for (number, references) in [(1, &[2, 3][..]), (2, &[4]), (3, &[4, 9]), (4, &[1, 4])] {
        put(&cache, number, &nar_of_file(&[number]), references, None);
    }
    let order = |question: &SyncPaths| {
        sync(&cache, question).iter().map(|path| path.hash[0]).collect::<Vec<_>>()
    };
    assert_eq!(order(&question(&[1], true)), [1, 2, 3, 4, 9]);
    assert_eq!(order(&question(&[1, 1, 8], false)), [1, 8]);
    let known = |numbers: &[u8]| SyncPaths {
        known: question(numbers, true).hashes,
        ..question(&[1], true)
    };
    assert_eq!(order(&known(&[3])), [1, 2, 4]);
    assert_eq!(order(&known(&[2, 3])), [1]);
    assert_eq!(order(&known(&[1])), [1, 2, 3, 4, 9], "who asks for a path is told of it");
    for wrong in [vec![0; 19], vec![0; 20 * (MAX_PATHS_AT_ONCE + 1)]] {
        assert!(cache.sync(&SyncPaths { hashes: wrong, ..question(&[], true) }).is_err());
    }
}

#[test]
fn an_answer_ends_and_what_it_left_out_can_be_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    // Many paths: all but one are absent, and are answered for all that.
    let nar = nar_of_file(b"hello");
    let url = format!("nar/{}.nar", sha256(&nar).to_nix32());
    let mut wide = info(1, &nar, &[1], &url);
    let reference = |number: u32| {
        let mut hash = [1; 20];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        StorePath::new(hash.into(), "reference").unwrap()
    };
    wide.references.extend((0..5000).map(reference));
    cache.upload_nar(url[4..].parse().unwrap(), &nar[..], 1 << 20, None).unwrap();
    let text = wide.render(cache.store_dir());
    cache.publish(path(1).hash(), text.as_bytes(), None).unwrap();
    let synced = sync(&cache, &question(&[1], true));
    assert_eq!(synced.len(), MAX_PATHS_AT_ONCE);
    let known = synced.iter().flat_map(|path| path.hash.clone()).collect();
    let left: Vec<u8> = (4000..5000).flat_map(|n| *reference(n).hash().as_bytes()).collect();
    let rest = sync(&cache, &SyncPaths { hashes: left, known, ..question(&[], true) });
    assert_eq!(rest.len(), 1000);

    // Long ones: the third makes the answer too long, and is the last.
    let mut nar = Writer::new(Vec::new());
    nar.enter_directory(b"").unwrap();
    for number in 0..3000 {
        let target = format!("{number:04}").repeat(1000);
        nar.symlink(format!("{number:04}").as_bytes(), target.as_bytes()).unwrap();
    }
    nar.leave_directory().unwrap();
    let nar = nar.finish().unwrap();
    let numbers = [2, 3, 4, 5];
    numbers.iter().for_each(|number| put(&cache, *number, &nar, &[], None));
    let synced = sync(&cache, &question(&numbers, false));
    let length: usize = synced.iter().map(|path| path.tree.len()).sum();
    assert_eq!((synced.len(), length > MAX_SYNC_ANSWER), (3, true));
}

#[test]
fn a_lost_list_costs_its_own_path_only() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let team = cache(&house, "team");
    put(&team, 1, &nar(1), &[2], None);
    put(&team, 2, &nar_of_file(b"small"), &[], None);
    // One byte of the first list, wherever it lies in the pack.
    let list = Digest::of(&one(&team, 1).lists[0]);
    let blob = Tree::decode(&one(&team, 1).tree).unwrap();
    let blob = *blob.lists().find(|(_, named)| **named == list).unwrap().0;
    let pack = fs::read_dir(dir.path().join("packs")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&pack).unwrap();
    let at = (0..bytes.len() - HEADER_LEN)
        .find(|at| {
            let header = RecordHeader::parse(&bytes[*at..]);
            header.is_some_and(|header| {
                header.digest == blob && header.kind == castore::Kind::ChunkList
            })
        })
        .unwrap();
    let at = at + HEADER_LEN + 12;
    let pack = fs::OpenOptions::new().write(true).open(pack).unwrap();
    pack.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    let [damaged, other] = &sync(&team, &question(&[1], true))[..] else { panic!("not two") };
    assert!(!damaged.narinfo.is_empty());
    assert!(damaged.tree.is_empty() && damaged.lists.is_empty());
    assert_eq!(chunks(other), [Digest::of(b"small")]);
}

fn profile(number: u8, numbers: impl IntoIterator<Item = u64>) -> PathProfile {
    let mut chunks = Vec::new();
    numbers.into_iter().for_each(|number| prost::encoding::encode_varint(number, &mut chunks));
    PathProfile { hash: path(number).hash().as_bytes().to_vec(), chunks }
}

#[test]
fn the_latest_profile_counts_unless_it_tells_much_less() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let team = cache(&house, "team");
    put(&team, 1, &nar(1), &[], None);
    let keep = |profile: PathProfile| {
        team.keep_profile(&Profile::new(profile).unwrap()).unwrap();
        one(&team, 1).profile
    };
    assert_eq!(one(&team, 1).profile, b"");
    assert_eq!(keep(profile(1, 0..10)), (0..10).collect::<Vec<u8>>());
    assert_eq!(keep(profile(1, 5..9)), (0..10).collect::<Vec<u8>>(), "less than half");
    assert_eq!(keep(profile(1, 5..10)), [5, 6, 7, 8, 9]);
    assert_eq!(keep(profile(1, [1 << 40])), [5, 6, 7, 8, 9], "no such chunk");
    assert_eq!(keep(profile(1, [])), [5, 6, 7, 8, 9]);
    assert_eq!(keep(profile(2, 0..3)), [5, 6, 7, 8, 9], "no such path");

    // It is about a tree: another one's chunks have other numbers.
    put(&team, 1, &nar(2), &[], None);
    assert_eq!(one(&team, 1).profile, b"");
    assert_eq!(keep(profile(1, 0..2)), [0, 1]);

    for wrong in [
        PathProfile { hash: vec![1; 19], chunks: Vec::new() },
        PathProfile { hash: vec![1; 20], chunks: vec![0x80] },
        PathProfile { hash: vec![1; 20], chunks: vec![3, 3] },
        PathProfile { hash: vec![1; 20], chunks: vec![0xff; 11] },
        profile(1, 0..60_000),
    ] {
        assert!(Profile::new(wrong).is_err());
    }
}

#[test]
fn a_profile_is_told_in_the_cache_that_it_was_sent_to() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (here, elsewhere) = (cache(&house, "here"), cache(&house, "elsewhere"));
    let sent = Profile::new(profile(1, [0])).unwrap();
    here.keep_profile(&sent).unwrap();
    put(&here, 1, &nar_of_file(b"hello"), &[], None);
    put(&elsewhere, 1, &nar_of_file(b"hello"), &[], None);
    assert_eq!(one(&here, 1).profile, b"", "what came before the path was dropped");
    here.keep_profile(&sent).unwrap();
    assert_eq!(one(&here, 1).profile, [0]);
    assert_eq!(one(&elsewhere, 1).profile, b"");
}
