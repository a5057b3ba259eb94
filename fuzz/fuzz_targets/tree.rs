//! Trees: whatever decodes is the one encoding of what it says.
//!
//! Input: one byte that picks what the rest is: a directory, a chunk list, a node, a tree record,
//! or a script that a whole tree record is built from.

#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use castore::Digest;
use castore::tree::{ChunkList, Directory, Entry, Node, NodeName, SymlinkTarget, Tree};
use libfuzzer_sys::arbitrary::{self, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&what, data)) = data.split_first() else {
        return;
    };
    match what % 5 {
        0 => directory(data),
        1 => chunk_list(data),
        2 => node(data),
        3 => tree(data),
        _ => built(data),
    }
});

fn directory(data: &[u8]) {
    let Ok(directory) = Directory::decode(data) else {
        return;
    };
    assert_eq!(directory.encode(), data);
    assert!(directory.entries().is_sorted_by(|a, b| a.name < b.name));
    for Entry { name, node } in directory.entries() {
        assert_eq!(directory.get(name.as_bytes()), Some(node));
    }
    let _ = directory.size();
}

fn chunk_list(data: &[u8]) {
    let Ok(list) = ChunkList::decode(data) else {
        return;
    };
    assert_eq!(list.encode(), data);
    let _ = list.size();
    let mut plain = [0; 4096];
    for chunk in &list.chunks {
        let len = plain.len().min(chunk.size as usize);
        let _ = chunk.apply_patches(&mut plain[..len]);
    }
}

fn node(data: &[u8]) {
    let Ok(node) = Node::decode(data) else { return };
    assert_eq!(node.encode(), data);
}

fn tree(data: &[u8]) {
    let Ok(tree) = Tree::decode(data) else { return };
    assert_eq!(encode(&tree), data);
    assert_eq!(tree.weight(), data.len());
    assert_eq!(tree.lookup(b"").unwrap(), Some(tree.root()));
}

/// Everything below a node, in the order of a tree record.
#[derive(Default)]
struct Below {
    directories: Vec<Vec<u8>>,
    seen: HashSet<Digest>,
    lists: BTreeMap<Digest, Digest>,
}

impl Below {
    fn add(&mut self, tree: &Tree, node: &Node) {
        match node {
            Node::Directory { digest, size } => {
                let directory = tree.directory(digest).unwrap();
                assert_eq!(directory.size(), Some(*size));
                if !self.seen.insert(*digest) {
                    return;
                }
                for entry in directory.entries() {
                    self.add(tree, &entry.node);
                }
                let encoded = directory.encode();
                assert_eq!(Digest::of(&encoded), *digest);
                self.directories.push(encoded);
            }
            Node::File { digest, .. } => {
                self.lists.extend(tree.list_of(digest).map(|list| (*digest, list)));
            }
            Node::Symlink { .. } => {}
        }
    }
}

fn encode(tree: &Tree) -> Vec<u8> {
    let mut below = Below::default();
    below.add(tree, tree.root());
    tree_record(tree.root(), &below.directories, &below.lists)
}

/// The record, by hand: protobuf messages in protobuf messages.
fn tree_record(root: &Node, directories: &[Vec<u8>], lists: &BTreeMap<Digest, Digest>) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, &root.encode());
    for directory in directories {
        field(&mut out, 2, directory);
    }
    for (blob, list) in lists {
        let mut pair = Vec::new();
        field(&mut pair, 1, blob.as_bytes());
        field(&mut pair, 2, list.as_bytes());
        field(&mut out, 3, &pair);
    }
    out
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

/// Builds a tree that is right and must be read, then spoils one byte of it.
fn built(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut builder = Builder { below: Below::default(), nodes: 64 };
    let Ok(root) = builder.node(&mut script, 8) else {
        return;
    };
    let Below { directories, lists, .. } = builder.below;
    let mut record = tree_record(&root, &directories, &lists);
    let read = Tree::decode(&record).expect("a tree that is right is read");
    assert_eq!(*read.root(), root);
    assert_eq!(encode(&read), record);
    for (blob, list) in &lists {
        assert_eq!(read.list_of(blob), Some(*list));
    }
    if let (Ok(at), Ok(bits @ 1..)) = (script.choose_index(record.len()), script.arbitrary()) {
        let _: u8 = bits;
        record[at] ^= bits;
        tree(&record);
    }
}

struct Builder {
    below: Below,
    /// How many nodes may still be made.
    nodes: usize,
}

impl Builder {
    fn node(&mut self, script: &mut Unstructured<'_>, depth: usize) -> arbitrary::Result<Node> {
        self.nodes = self.nodes.saturating_sub(1);
        Ok(match script.int_in_range(0..=3)? {
            0 => {
                let digest = Digest::of(&script.arbitrary::<[u8; 1]>()?);
                if script.arbitrary()? {
                    self.below.lists.insert(digest, Digest::of(script.bytes(1)?));
                }
                let (size, executable) = (script.arbitrary()?, script.arbitrary()?);
                Node::File { digest, size, executable }
            }
            1 => {
                let target = [b"/", script.bytes(1)?].concat();
                match SymlinkTarget::try_from(&target[..]) {
                    Ok(target) => Node::Symlink { target },
                    Err(_) => return Err(arbitrary::Error::IncorrectFormat),
                }
            }
            _ => {
                let mut names = BTreeSet::new();
                while depth > 0 && names.len() < self.nodes && script.ratio(2, 3)? {
                    let len = script.int_in_range(1..=3)?;
                    names.insert(script.bytes(len)?);
                }
                let mut directory = Directory::default();
                for name in names {
                    let Ok(name) = NodeName::try_from(name) else {
                        continue;
                    };
                    let node = self.node(script, depth - 1)?;
                    directory.push(name, node).unwrap();
                }
                let encoded = directory.encode();
                let (digest, size) = (Digest::of(&encoded), directory.size().unwrap());
                if self.below.seen.insert(digest) {
                    self.below.directories.push(encoded);
                }
                Node::Directory { digest, size }
            }
        })
    }
}
