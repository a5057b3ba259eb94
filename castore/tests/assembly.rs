//! Trees that are put together from chunks sent before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::sync::Arc;

use castore::blob::{Blob, BlobBuilder};
use castore::pack::{FrameEncoder, HEADER_LEN, RecordHeader};
use castore::tree::{ChunkList, Node, TreeBuilder};
use castore::{AssemblyError, Digest, Holder, IntakeError, Kind, Options, Store, Transaction};

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn blob(data: &[u8]) -> Blob {
    let mut builder = BlobBuilder::new(data.len() as u64);
    builder.write(data);
    builder.finish()
}

/// Records of all chunks of the file.
fn records(data: &[u8], blob: &Blob) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    let mut encoder = FrameEncoder::new().unwrap();
    for chunk in &blob.chunks.chunks {
        let plain = &data[at..at + chunk.size as usize];
        encoder.append(&mut out, Kind::Chunk, chunk.digest, plain).unwrap();
        at += plain.len();
    }
    out
}

/// A tree that is one file.
fn tree_of(blob: &Blob) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut tree = TreeBuilder::default();
    let node = Node::File { digest: blob.digest, size: blob.size, executable: false };
    tree.place(None, node).unwrap();
    let lists: Vec<Vec<u8>> = blob.list().into_iter().collect();
    lists.iter().for_each(|list| tree.set_list(blob.digest, Digest::of(list)));
    (tree.finish().unwrap().1, lists)
}

fn open(dir: &std::path::Path) -> Arc<Store> {
    Store::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn take(store: &Arc<Store>, holder: Holder, records: &[u8]) -> Result<(), IntakeError> {
    let mut intake = store.intake(holder)?;
    intake.add_all(records)?;
    Ok(intake.finish()?)
}

#[test]
fn a_tree_is_assembled_from_chunks_sent_before_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let holder = Holder::named(b"one");
    let data = noise(1, 900_000);
    let blob = blob(&data);
    let (tree, lists) = tree_of(&blob);
    {
        let store = open(dir.path());
        let mut assembly = store.assemble(tree.clone(), lists.clone()).unwrap();
        assert_eq!(assembly.missing(&[holder]).unwrap().len(), blob.chunks.chunks.len());
        take(&store, holder, &records(&data, &blob)).unwrap();
        let mut assembly = store.assemble(tree.clone(), lists.clone()).unwrap();
        assert_eq!(assembly.missing(&[holder]).unwrap(), []);
        let mut read = Vec::new();
        assembly
            .read_file(&blob.digest, blob.size, |piece| {
                read.extend_from_slice(piece);
                true
            })
            .unwrap();
        assert_eq!(read, data);
        assert_eq!(assembly.finish(holder).unwrap().0, Digest::of(&tree));
        store.commit(Transaction::default()).unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.assemble(tree.clone(), lists).unwrap().missing(&[holder]).unwrap(), []);
    let kept = store.tree(&Digest::of(&tree)).unwrap();
    assert_eq!(store.chunks_of(&kept, &blob.digest, blob.size).unwrap(), blob.chunks.chunks);
}

#[test]
fn who_has_no_claim_does_not_learn_that_a_chunk_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (owner, stranger) = (Holder::named(b"owner"), Holder::named(b"stranger"));
    let data = noise(2, 200_000);
    let blob = blob(&data);
    let (tree, lists) = tree_of(&blob);
    take(&store, owner, &records(&data, &blob)).unwrap();
    let chunks = blob.chunks.chunks.len();
    let missing = |holders: &[Holder]| {
        store.assemble(tree.clone(), lists.clone()).unwrap().missing(holders).unwrap().len()
    };
    assert_eq!((missing(&[owner]), missing(&[stranger]), missing(&[])), (0, chunks, chunks));
    assert_eq!(missing(&[stranger, owner]), 0);
    // The bytes are stored once, whoever brings them.
    let before = store.locate(Kind::Chunk, &blob.chunks.chunks[0].digest).unwrap();
    take(&store, stranger, &records(&data, &blob)).unwrap();
    assert_eq!(missing(&[stranger]), 0);
    assert_eq!(store.locate(Kind::Chunk, &blob.chunks.chunks[0].digest).unwrap(), before);
}

#[test]
fn what_a_nar_brings_is_claimed_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let data = noise(3, 700_000);
    let blob = blob(&data);
    let (tree, lists) = tree_of(&blob);
    // The second holder's upload stores nothing, and claims all the same; it learns of no more than
    // what it brought itself.
    let (first, second) = (Holder::named(b"first"), Holder::named(b"second"));
    for (holder, known) in [(first, 0), (second, 0), (first, blob.size), (second, blob.size)] {
        let mut upload = store.upload().unwrap().held_by(holder);
        upload.start_file(b"", false, blob.size).unwrap();
        upload.write(&data).unwrap();
        let uploaded = upload.finish().unwrap();
        assert_eq!((uploaded.tree, uploaded.known), (Digest::of(&tree), known));
        let mut assembly = store.assemble(tree.clone(), lists.clone()).unwrap();
        assert_eq!(assembly.missing(&[holder]).unwrap(), []);
    }
}

#[test]
fn a_list_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let holder = Holder::named(b"liar");
    let data = noise(4, 600_000);
    let honest = blob(&data);
    take(&store, holder, &records(&data, &honest)).unwrap();
    let read = |blob: &Blob| {
        let (tree, lists) = tree_of(blob);
        let mut assembly = store.assemble(tree, lists)?;
        assembly.missing(&[holder])?;
        assembly.read_file(&blob.digest, blob.size, |_| true)
    };
    // The chunks in another order are another file.
    let mut swapped = honest.clone();
    swapped.chunks.chunks.swap(0, 1);
    assert!(matches!(read(&swapped), Err(AssemblyError::Blob { .. })));
    // Cut elsewhere, the same file would not be shared with anybody.
    let halves = [&data[..300_000], &data[300_000..]];
    let mut elsewhere = honest.clone();
    elsewhere.chunks = ChunkList::default();
    for half in halves {
        let chunk = castore::tree::ChunkRef {
            digest: Digest::of(half),
            size: half.len() as u32,
            patches: Vec::new(),
        };
        let mut record = Vec::new();
        FrameEncoder::new().unwrap().append(&mut record, Kind::Chunk, chunk.digest, half).unwrap();
        take(&store, holder, &record).unwrap();
        elsewhere.chunks.chunks.push(chunk);
    }
    assert!(matches!(read(&elsewhere), Err(AssemblyError::Blob { .. })));
    // Lengths that only add up.
    let mut lengths = honest.clone();
    lengths.chunks.chunks[0].size += 1;
    lengths.chunks.chunks[1].size -= 1;
    assert!(matches!(read(&lengths), Err(AssemblyError::Blob { .. })));
    // No list, another list, one too many.
    let (tree, lists) = tree_of(&honest);
    let extra = [lists.clone(), lists.clone()].concat();
    for lists in [Vec::new(), vec![swapped.chunks.encode()], extra] {
        assert!(matches!(store.assemble(tree.clone(), lists), Err(AssemblyError::List(_))));
    }
    // To who does not hold the chunks, a wrong list says nothing of whether the file is known.
    read(&honest).unwrap();
    let (honest_tree, honest_lists) = tree_of(&honest);
    let mut kept = store.assemble(honest_tree, honest_lists).unwrap();
    kept.missing(&[holder]).unwrap();
    kept.read_file(&honest.digest, honest.size, |_| true).unwrap();
    kept.finish(holder).unwrap();
    let stranger = Holder::named(b"stranger");
    for list in [&swapped, &elsewhere] {
        let (tree, lists) = tree_of(list);
        let missing = store.assemble(tree, lists).unwrap().missing(&[stranger]).unwrap();
        assert_eq!(missing.len(), list.chunks.chunks.len());
    }
    // A tree is kept only when its lists were proven.
    let unread = store.assemble(tree, lists).unwrap();
    assert!(matches!(unread.finish(holder), Err(AssemblyError::Blob { .. })));
}

#[test]
fn a_record_that_is_not_what_it_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let holder = Holder::named(b"h");
    let data = vec![b'a'; 40_000];
    let digest = Digest::of(&data);
    let seal = |kind, digest, plain: u64, frames: &[u8]| {
        let header = RecordHeader::seal(kind, digest, plain, frames).unwrap();
        [&header.to_bytes()[..], frames].concat()
    };
    let mut good = Vec::new();
    FrameEncoder::new().unwrap().append(&mut good, Kind::Chunk, digest, &data).unwrap();
    let frames = &good[HEADER_LEN..];
    let size = data.len() as u64;
    // A frame of the streaming encoder names a window instead of its length.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    for half in data.chunks(20_000) {
        encoder.write_all(half).unwrap();
        encoder.flush().unwrap();
    }
    let windowed = encoder.finish().unwrap();
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let long = vec![0; 600_000];
    let long_frame = zstd::bulk::compress(&long, 1).unwrap();
    for (what, record) in [
        ("another digest", seal(Kind::Chunk, Digest::of(b"other"), size, frames)),
        ("another length", seal(Kind::Chunk, digest, size + 1, frames)),
        ("not a chunk", seal(Kind::Tree, digest, size, frames)),
        ("a claim", seal(Kind::Claim, digest, 0, &[])),
        ("two frames", seal(Kind::Chunk, digest, size, &[frames, frames].concat())),
        ("a window", seal(Kind::Chunk, digest, size, &windowed)),
        ("bytes behind", seal(Kind::Chunk, digest, size, &[frames, b"x"].concat())),
        ("no frame", seal(Kind::Chunk, digest, size, b"plain")),
        ("too long", seal(Kind::Chunk, Digest::of(&long), 600_000, &long_frame)),
        ("damaged", damaged),
        ("cut", good[..good.len() - 1].to_vec()),
        ("cut head", good[..HEADER_LEN - 1].to_vec()),
        ("no header", vec![0; HEADER_LEN]),
    ] {
        assert!(take(&store, holder, &record).is_err(), "{what}");
        assert!(store.held(&[holder], &digest).unwrap().is_none(), "{what}");
    }
    take(&store, holder, &good).unwrap();
    assert!(store.held(&[holder], &digest).unwrap().is_some());
}
