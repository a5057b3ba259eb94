//! What is uploaded: a few contents, so that trees share most of their chunks.

use std::collections::HashSet;
use std::sync::LazyLock;

use castore::Digest;
use castore::blob::{Blob, BlobBuilder};
use castore::pack::{FrameEncoder, Kind};
use castore::tree::{Node, NodeName, TreeBuilder};

use crate::stores::noise;

/// A file.
pub struct Content {
    pub bytes: Vec<u8>,
    pub blob: Blob,
    /// The records of its chunks, in order.
    pub records: Vec<(Digest, Vec<u8>)>,
}

/// All of them. The last one, longer than a megabyte, is meant to be rare.
pub static POOL: LazyLock<Vec<Content>> = LazyLock::new(|| {
    let small = [0, 300, 900, 2_500, 7_000, 20_000, 33_000];
    let mut files: Vec<Vec<u8>> =
        small.iter().zip(0..).map(|(len, seed)| noise(seed, *len)).collect();
    for seed in 10..14 {
        // Each has a twin that begins as it does.
        let start = noise(seed, 150_000 + seed as usize * 9_000);
        for end in [100, 200] {
            files.push([&start[..], &noise(seed + end, 60_000)].concat());
        }
    }
    files.push(noise(99, 1_300_000));
    files.into_iter().map(content).collect()
});

fn content(bytes: Vec<u8>) -> Content {
    let mut builder = BlobBuilder::new(bytes.len() as u64);
    builder.write(&bytes);
    let blob = builder.finish();
    let (mut records, mut at) = (Vec::new(), 0);
    let mut encoder = FrameEncoder::new().unwrap();
    for chunk in &blob.chunks.chunks {
        let mut record = Vec::new();
        let plain = &bytes[at..at + chunk.size as usize];
        encoder.append(&mut record, Kind::Chunk, chunk.digest, plain).unwrap();
        at += plain.len();
        records.push((chunk.digest, record));
    }
    Content { bytes, blob, records }
}

/// The content of that number, which is the long one only when `number` says so twice.
pub fn pick(number: u16) -> usize {
    let len = POOL.len();
    if number % 61 == 60 { len - 1 } else { usize::from(number) % (len - 1) }
}

/// The name of the file at that place in a tree.
pub fn name(at: usize) -> String {
    format!("file-{at:04}")
}

/// A tree of these files as it is encoded, and its chunk lists by blob.
pub fn encoded(files: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut tree = TreeBuilder::default();
    tree.enter_directory(b"").unwrap();
    let mut lists = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let blob = &POOL[*file].blob;
        let node = Node::File { digest: blob.digest, size: blob.size, executable: false };
        let name: Option<NodeName> = tree.name(name(at).as_bytes()).unwrap();
        tree.place(name, node).unwrap();
        if let Some(list) = blob.list() {
            tree.set_list(blob.digest, Digest::of(&list));
            lists.push((blob.digest, list));
        }
    }
    tree.leave_directory().unwrap();
    lists.sort();
    lists.dedup();
    (tree.finish().unwrap().1, lists.into_iter().map(|(_, list)| list).collect())
}

/// The digest of a tree of these files.
pub fn tree_of(files: &[usize]) -> Digest {
    Digest::of(&encoded(files).0)
}

/// All chunks of these files.
pub fn chunks(files: &[usize]) -> HashSet<Digest> {
    files.iter().flat_map(|file| POOL[*file].records.iter().map(|(digest, _)| *digest)).collect()
}
