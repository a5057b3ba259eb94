//! The tree record: everything below a root but the bytes of its files.
//!
//! One record per root, addressed by the digest of its encoding: the root node, every directory
//! below it once, and for each blob that has a chunk list the digest of that list. So a whole
//! path is known after one read, and everything in it can be checked from one digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::slice;

use prost::Message;

use super::wire;
use super::{Directory, Entry, MAX_DEPTH, MAX_ENTRIES, MAX_TREE, Node, TreeError, digest_field};
use crate::Digest;

/// Everything below a root but the bytes of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Node,
    directories: HashMap<Digest, Directory>,
    lists: BTreeMap<Digest, Digest>,
    /// Length of the encoding, which stands for what the tree weighs in memory.
    weight: usize,
}

impl Tree {
    /// The root node.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The directory of that digest, which a node of this tree named.
    pub fn directory(&self, digest: &Digest) -> Result<&Directory, TreeError> {
        self.directories.get(digest).ok_or(TreeError::MissingDirectory(*digest))
    }

    /// The blobs that have a chunk list, with its digest.
    pub fn lists(&self) -> impl ExactSizeIterator<Item = (&Digest, &Digest)> {
        self.lists.iter()
    }

    /// The digest of the blob's chunk list; `None` when the blob is one chunk.
    pub fn list_of(&self, blob: &Digest) -> Option<Digest> {
        self.lists.get(blob).copied()
    }

    /// Every file's contents, as digest and length, each once.
    pub fn files(&self) -> HashSet<(Digest, u64)> {
        let below = self.directories.values().flat_map(Directory::entries).map(|entry| &entry.node);
        let file = |node: &Node| match node {
            Node::File { digest, size, .. } => Some((*digest, *size)),
            _ => None,
        };
        below.chain([&self.root]).filter_map(file).collect()
    }

    /// Length of the encoding in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The node at `path`, `/`-separated and relative to the root; empty names the root.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<&Node>, TreeError> {
        let mut node = &self.root;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Node::Directory { digest, .. } = node else {
                return Ok(None);
            };
            match self.directory(digest)?.get(name) {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// Encodes a tree from parts that were checked while they were made.
    pub(crate) fn encode_parts(
        root: &Node,
        directories: Vec<Vec<u8>>,
        lists: &BTreeMap<Digest, Digest>,
    ) -> Vec<u8> {
        let lists = lists.iter().map(|(blob, list)| wire::ListRef {
            blob: blob.as_bytes().to_vec(),
            list: list.as_bytes().to_vec(),
        });
        wire::Tree { root: Some(root.to_wire()), directories, lists: lists.collect() }
            .encode_to_vec()
    }

    /// Reads a tree record and checks that it is whole: every directory that is named is there,
    /// under its own digest and with its own size. Anything but the one record of its tree is
    /// refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let bad = |source| TreeError::Protobuf { what: "a tree", source };
        // Every directory but the root is named in another, every list by two digests.
        if wire::count_fields(bytes).map_err(bad)? > bytes.len() / Digest::LEN + 2 {
            return Err(TreeError::NotCanonical("a tree"));
        }
        let wire = wire::Tree::decode(bytes).map_err(bad)?;
        let root =
            Node::from_wire(wire.root.ok_or(TreeError::Inconsistent("a tree has no root"))?)?;
        let mut lists = BTreeMap::new();
        for list in &wire.lists {
            lists.insert(digest_field(&list.blob)?, digest_field(&list.list)?);
        }
        let mut unnamed_lists: HashSet<Digest> = lists.keys().copied().collect();
        let mut order = Vec::with_capacity(wire.directories.len());
        let mut directories = HashMap::with_capacity(wire.directories.len());
        // How deep directories are nested below each one, and what they weigh with everything below,
        // wherever it appears; itself included.
        let mut below: HashMap<Digest, (usize, usize)> =
            HashMap::with_capacity(wire.directories.len());
        let mut check = |directories: &HashMap<Digest, Directory>, node: &Node| match node {
            Node::Directory { digest, size } => match directories.get(digest) {
                Some(directory) if directory.size() == Some(*size) => Ok(()),
                Some(_) => Err(TreeError::Inconsistent("a directory has not the size it is given")),
                None => Err(TreeError::MissingDirectory(*digest)),
            },
            Node::File { digest, .. } => {
                unnamed_lists.remove(digest);
                Ok(())
            }
            Node::Symlink { .. } => Ok(()),
        };
        for encoded in &wire.directories {
            let directory = Directory::decode(encoded)?;
            let (mut height, mut weight) = (1, 0usize);
            for entry in directory.entries() {
                check(&directories, &entry.node)?;
                weight = weight.saturating_add(entry.weight());
                if let Node::Directory { digest, .. } = &entry.node {
                    let (depth, more) = below.get(digest).copied().unwrap_or_default();
                    height = height.max(1 + depth);
                    weight = weight.saturating_add(more);
                }
            }
            if height > MAX_DEPTH {
                return Err(TreeError::TooDeep);
            }
            if weight > MAX_TREE {
                return Err(TreeError::TooManyEntries);
            }
            let digest = Digest::of(encoded);
            below.insert(digest, (height, weight));
            order.push(digest);
            directories.insert(digest, directory);
        }
        check(&directories, &root)?;
        if matches!(root, Node::Directory { size, .. } if size > MAX_ENTRIES) {
            return Err(TreeError::TooManyEntries);
        }
        let tree = Self { root, directories, lists, weight: bytes.len() };
        let canonical = unnamed_lists.is_empty()
            && order == tree.directories_in_order()
            && Self::encode_parts(&tree.root, wire.directories, &tree.lists) == bytes;
        if !canonical {
            return Err(TreeError::NotCanonical("a tree"));
        }
        Ok(tree)
    }

    /// The directories as a record holds them: each once, in the order in which a walk of the tree
    /// leaves them for the first time.
    fn directories_in_order(&self) -> Vec<Digest> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        let mut open: Vec<(Digest, slice::Iter<'_, Entry>)> = Vec::new();
        let mut next = Some(&self.root);
        loop {
            if let Some(Node::Directory { digest, .. }) = next
                && seen.insert(*digest)
                && let Some(directory) = self.directories.get(digest)
            {
                open.push((*digest, directory.entries().iter()));
            }
            let Some((digest, entries)) = open.last_mut() else {
                return order;
            };
            next = entries.next().map(|entry| &entry.node);
            if next.is_none() {
                order.push(*digest);
                open.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with two directories, one of which holds a file of several chunks.
    fn parts() -> (Node, Vec<Vec<u8>>, BTreeMap<Digest, Digest>) {
        let (mut lists, mut inner, mut outer) =
            (BTreeMap::new(), Directory::default(), Directory::default());
        let digest = Digest::of(b"blob");
        lists.insert(digest, Digest::of(b"list"));
        let file = Node::File { digest, size: 9, executable: false };
        inner.push(b"f"[..].try_into().unwrap(), file).unwrap();
        let empty = Directory::default();
        let nodes = [&inner, &empty].map(|below| below.node_for(&below.encode()).unwrap());
        for (name, node) in [b"a", b"b"].into_iter().zip(nodes) {
            outer.push(name[..].try_into().unwrap(), node).unwrap();
        }
        let root = outer.node_for(&outer.encode()).unwrap();
        let directories = vec![inner.encode(), empty.encode(), outer.encode()];
        (root, directories, lists)
    }

    #[test]
    fn a_tree_has_one_record() {
        let (root, directories, lists) = parts();
        let record = Tree::encode_parts(&root, directories.clone(), &lists);
        assert_eq!(*Tree::decode(&record).unwrap().root(), root);
        let (mut swapped, mut twice, mut stray) =
            (directories.clone(), directories.clone(), directories.clone());
        swapped.swap(0, 1);
        twice.insert(1, directories[0].clone());
        let mut unnamed = Directory::default();
        let target = b"/"[..].try_into().unwrap();
        let link = Node::Symlink { target };
        unnamed.push(b"l"[..].try_into().unwrap(), link).unwrap();
        stray.push(unnamed.encode());
        let mut stray_list = lists.clone();
        stray_list.insert(Digest::of(b"no such blob"), Digest::of(b"list"));
        let mut padded = record;
        padded.extend([0x20, 1]); // an unknown field 4
        for wrong in [
            Tree::encode_parts(&root, swapped, &lists),
            Tree::encode_parts(&root, twice, &lists),
            Tree::encode_parts(&root, stray, &lists),
            Tree::encode_parts(&root, directories, &stray_list),
            padded,
        ] {
            let refused = Tree::decode(&wrong);
            assert!(matches!(refused, Err(TreeError::NotCanonical(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_short_record_cannot_stand_for_an_endless_tree() {
        let (mut directories, mut below) = (vec![Vec::new()], Directory::default());
        // Each directory holds the one before it twice.
        let doubled = |below: &Directory| {
            let node = below.node_for(&below.encode()).unwrap();
            let mut above = Directory::default();
            above.push(b"a"[..].try_into().unwrap(), node.clone()).unwrap();
            above.push(b"b"[..].try_into().unwrap(), node).unwrap();
            above
        };
        for _ in 0..21 {
            below = doubled(&below);
            directories.push(below.encode());
        }
        let root = below.node_for(&below.encode()).unwrap();
        let record = Tree::encode_parts(&root, directories, &BTreeMap::new());
        assert!(matches!(Tree::decode(&record), Err(TreeError::TooManyEntries)));
    }

    #[test]
    fn long_symlinks_count_wherever_they_appear() {
        let mut leaf = Directory::default();
        for name in b'a'..=b'z' {
            let node = Node::Symlink { target: vec![b't'; 4095][..].try_into().unwrap() };
            leaf.push([name][..].try_into().unwrap(), node).unwrap();
        }
        let mut below = leaf;
        let mut directories = vec![below.encode()];
        for _ in 0..11 {
            let node = below.node_for(&below.encode()).unwrap();
            below = Directory::default();
            below.push(b"a"[..].try_into().unwrap(), node.clone()).unwrap();
            below.push(b"b"[..].try_into().unwrap(), node).unwrap();
            directories.push(below.encode());
        }
        let root = below.node_for(&below.encode()).unwrap();
        let record = Tree::encode_parts(&root, directories, &BTreeMap::new());
        assert!(matches!(Tree::decode(&record), Err(TreeError::TooManyEntries)));
    }

    #[test]
    fn a_message_of_empty_fields_is_refused_before_it_is_decoded() {
        let mut empty_directories = Vec::new();
        (0..100_000).for_each(|_| empty_directories.extend([0x12, 0]));
        assert!(matches!(Tree::decode(&empty_directories), Err(TreeError::NotCanonical(_))));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| {
            let (mut directories, mut below) = (vec![Vec::new()], Directory::default());
            for _ in 1..depth {
                let node = below.node_for(&below.encode()).unwrap();
                below = Directory::default();
                below.push(b"d"[..].try_into().unwrap(), node).unwrap();
                directories.push(below.encode());
            }
            let root = below.node_for(&below.encode()).unwrap();
            Tree::decode(&Tree::encode_parts(&root, directories, &BTreeMap::new()))
        };
        assert!(nested(MAX_DEPTH).is_ok());
        assert!(matches!(nested(MAX_DEPTH + 1), Err(TreeError::TooDeep)));
    }
}
