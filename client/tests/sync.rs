//! What a lazy reader gets from a server in the same process, over a real connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::collections::HashSet;
use std::fs;

use castore::Digest;
use castore::pack::{FrameDecoder, HEADER_LEN, Kind, RecordHeader};
use castore::tree::{ChunkList, Tree};
use fixture::{Fixture, LocalPaths, noise};
use granary_api::sync::{MAX_CHUNKS_ANSWER, root_fingerprint};
use granary_api::sync::{PathProfile, SIGNATURE_FIELD, SyncPaths, SyncedPath, TREE_FIELD};
use granary_client::http::RemoteCache;
use granary_client::push::{PlanOptions, PushOptions, plan, push};
use nix_compat::narinfo::NarInfo;
use nix_compat::path_info::PathInfo;
use nix_compat::signature::{Signature, VerifyingKey};
use nix_compat::store_path::{StoreDir, StorePath};

async fn push_all(fixture: &Fixture, local: &LocalPaths) {
    push_these(fixture, local, local.infos()).await;
}

async fn push_these(fixture: &Fixture, local: &LocalPaths, infos: Vec<PathInfo>) {
    let remote = fixture.remote("main");
    let plan = plan(&remote, infos, &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    let place = |path: &StorePath| local.place(path);
    let pushed = push(&remote, &plan, &place, PushOptions::default(), &|_, _| ()).await.unwrap();
    assert!(pushed.failed.is_empty());
}

fn question(paths: &[&StorePath]) -> SyncPaths {
    let hashes = paths.iter().flat_map(|path| *path.hash().as_bytes()).collect();
    SyncPaths { hashes, closure: true, trees: true, known: Vec::new() }
}

fn hashes(synced: &[SyncedPath]) -> Vec<Vec<u8>> {
    synced.iter().map(|path| path.hash.clone()).collect()
}

/// Holds a path against the cache's key, and gives its chunks.
fn verify(path: &SyncedPath, key: &VerifyingKey) -> Vec<(Digest, u32)> {
    let narinfo = NarInfo::parse(&path.narinfo, &StoreDir::default()).unwrap();
    assert_eq!(&path.hash, narinfo.store_path.hash().as_bytes());
    let all = |name| narinfo.unknown.iter().filter(move |(field, _)| *field == name);
    let trees: Vec<_> = all(TREE_FIELD).map(|(_, tree)| *tree).collect();
    assert_eq!(trees, [Digest::of(&path.tree).to_string()]);
    let root = root_fingerprint(&narinfo.fingerprint(&StoreDir::default()), trees[0]);
    let signatures: Vec<Signature> =
        all(SIGNATURE_FIELD).map(|(_, signature)| signature.parse().unwrap()).collect();
    assert!(matches!(&signatures[..], [one] if key.verify(&root, one)), "{signatures:?}");

    let tree = Tree::decode(&path.tree).unwrap();
    assert_eq!(tree.lists().len(), path.lists.len());
    let mut chunks = Vec::new();
    let lists = tree.lists().zip(&path.lists);
    for ((_, expected), list) in lists {
        assert_eq!(Digest::of(list), *expected);
        let list = ChunkList::decode(list).unwrap();
        chunks.extend(list.chunks.iter().map(|chunk| (chunk.digest, chunk.size)));
    }
    let whole = tree.files().into_iter().filter(|(blob, _)| tree.list_of(blob).is_none());
    chunks.extend(whole.filter(|(_, size)| *size > 0).map(|(blob, size)| (blob, size as u32)));
    chunks
}

/// Records in the order in which they come, each decoded and held against its digest.
fn records(mut bytes: &[u8]) -> Vec<(Digest, u32)> {
    let (mut decoder, mut found) = (FrameDecoder::new().unwrap(), Vec::new());
    while !bytes.is_empty() {
        let header = RecordHeader::parse(bytes).unwrap();
        let (frames, later) = bytes[HEADER_LEN..].split_at(header.stored as usize);
        assert_eq!((header.kind, header.checksum), (Kind::Chunk, header.expected_checksum(frames)));
        let mut plain = Vec::new();
        decoder.append(&mut plain, frames, header.plain as usize).unwrap();
        assert_eq!(Digest::of(&plain), header.digest);
        found.push((header.digest, header.plain as u32));
        bytes = later;
    }
    found
}

async fn read(remote: &RemoteCache, digests: &[Digest]) -> Vec<(Digest, u32)> {
    let digests = digests.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>();
    records(&remote.read_chunks(digests.into()).await.unwrap())
}

async fn key(remote: &RemoteCache) -> VerifyingKey {
    remote.info().await.unwrap().public_keys[0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_comes_at_once_and_every_byte_of_it_can_be_verified() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let deep = local.add("deep", &[], |dir| fs::write(dir.join("f"), noise(2, 100_000)).unwrap());
    let lib = local.add("lib", &[&deep], |dir| {
        fs::write(dir.join("small"), b"some text").unwrap();
        fs::write(dir.join("empty"), b"").unwrap();
    });
    let top = local.add("top", &[&lib], |dir| {
        fs::create_dir(dir.join("bin")).unwrap();
        fs::write(dir.join("bin/tool"), noise(1, 3_000_000)).unwrap();
    });
    push_all(&fixture, &local).await;
    let remote = fixture.remote("main");
    let before = fixture.requests();
    let synced = remote.sync(&question(&[&top])).await.unwrap();
    assert_eq!(fixture.requests() - before, 1);
    let expected = [&top, &lib, &deep].map(|path| path.hash().as_bytes().to_vec());
    assert_eq!(hashes(&synced), expected, "nearest first");

    let key = key(&remote).await;
    let chunks: Vec<(Digest, u32)> = synced.iter().flat_map(|path| verify(path, &key)).collect();
    assert!(chunks.len() > 10);
    let mut digests: Vec<Digest> = chunks.iter().map(|(digest, _)| *digest).collect();
    digests.insert(3, Digest::of(b"nowhere"));
    assert_eq!(read(&remote, &digests).await, chunks, "in the order of the question");

    let mut known = question(&[&top]);
    known.known = lib.hash().as_bytes().to_vec();
    assert_eq!(hashes(&remote.sync(&known).await.unwrap()), expected[..1]);
    let alone = SyncPaths { closure: false, trees: false, ..question(&[&deep, &top]) };
    let alone = remote.sync(&alone).await.unwrap();
    assert_eq!(hashes(&alone), [&expected[2][..], &expected[0]]);
    assert!(alone.iter().all(|path| path.tree.is_empty() && path.lists.is_empty()));
    assert_eq!(alone[1].narinfo, synced[0].narinfo);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cache_has_not_is_said_to_be_absent() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let gone = local.add("gone", &[], |dir| fs::write(dir.join("f"), b"f").unwrap());
    let top = local.add("top", &[&gone], |dir| fs::write(dir.join("g"), b"g").unwrap());
    push_these(&fixture, &local, vec![local.info(&top)]).await;
    let remote = fixture.remote("main");
    let synced = remote.sync(&question(&[&top])).await.unwrap();
    assert_eq!(synced.len(), 2);
    let hash = gone.hash().as_bytes().to_vec();
    assert_eq!(synced[1], SyncedPath { hash, ..SyncedPath::default() });
    assert_eq!(read(&remote, &[Digest::of(b"f")]).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_chunks_is_bounded_and_the_rest_is_had_by_asking_again() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let path = local.add("big", &[], |dir| fs::write(dir.join("f"), noise(1, 40_000_000)).unwrap());
    push_all(&fixture, &local).await;
    let remote = fixture.remote("main");
    let synced = remote.sync(&question(&[&path])).await.unwrap();
    let wanted = verify(&synced[0], &key(&remote).await);
    let (mut digests, mut rounds) = (Vec::new(), 0);
    digests.extend(wanted.iter().map(|(digest, _)| *digest));
    let mut missing: HashSet<_> = digests.iter().copied().collect();
    while !digests.is_empty() {
        let got = read(&remote, &digests).await;
        let size: usize = got.iter().map(|(_, size)| *size as usize).sum();
        assert!(!got.is_empty() && size < MAX_CHUNKS_ANSWER);
        got.iter().for_each(|(digest, _)| assert!(missing.remove(digest)));
        digests.drain(..got.len());
        rounds += 1;
    }
    assert_eq!((missing.len(), rounds), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_come_back_with_their_paths() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let path = local.add("p", &[], |dir| fs::write(dir.join("f"), noise(1, 900_000)).unwrap());
    push_all(&fixture, &local).await;
    let remote = fixture.remote("main");
    let profile = |path: &StorePath, chunks: &[u8]| PathProfile {
        hash: path.hash().as_bytes().to_vec(),
        chunks: chunks.to_vec(),
    };
    let unknown = StorePath::new([7; 20].into(), "unknown").unwrap();
    let profiles = [profile(&unknown, &[1]), profile(&path, &[2, 0, 1])];
    remote.send_profiles(&profiles).await.unwrap();
    let synced = remote.sync(&question(&[&path, &unknown])).await.unwrap();
    assert_eq!(synced[0].profile, [2, 0, 1]);
    assert!(synced[1].profile.is_empty() && synced[1].narinfo.is_empty());
    let refused = remote.send_profiles(&[profile(&path, &[0x80])]).await.unwrap_err();
    assert!(refused.to_string().contains("varint"), "{refused}");
}
