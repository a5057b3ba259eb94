//! The tree record: everything below a root but the bytes of its files.
//!
//! One record per root, addressed by the digest of its encoding: the root node, every directory
//! below it once, and for each blob that has a chunk list the digest of that list. So a whole
//! path is known after one read, and everything in it can be checked from one digest.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::wire;
use super::{Directory, Node, TreeError, digest_field};
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
        self.directories
            .get(digest)
            .ok_or(TreeError::MissingDirectory(*digest))
    }

    /// The digest of the blob's chunk list; `None` when the blob is one chunk.
    pub fn list_of(&self, blob: &Digest) -> Option<Digest> {
        self.lists.get(blob).copied()
    }

    /// Length of the encoding in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The node at `path`, `/`-separated and relative to the root; empty names the root.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<&Node>, TreeError> {
        let mut node = &self.root;
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
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
        wire::Tree {
            root: Some(root.to_wire()),
            directories,
            lists: lists.collect(),
        }
        .encode_to_vec()
    }

    /// Reads a tree record and checks that it is whole: every directory that is named is there,
    /// under its own digest and with its own size.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let wire = wire::Tree::decode(bytes).map_err(|source| TreeError::Protobuf {
            what: "a tree",
            source,
        })?;
        let root = Node::from_wire(
            wire.root
                .ok_or(TreeError::Inconsistent("a tree has no root"))?,
        )?;
        let mut directories = HashMap::with_capacity(wire.directories.len());
        let check = |directories: &HashMap<Digest, Directory>, node: &Node| match node {
            Node::Directory { digest, size } => match directories.get(digest) {
                Some(directory) if directory.size() == Some(*size) => Ok(()),
                Some(_) => Err(TreeError::Inconsistent(
                    "a directory has not the size it is given",
                )),
                None => Err(TreeError::MissingDirectory(*digest)),
            },
            _ => Ok(()),
        };
        for encoded in &wire.directories {
            let directory = Directory::decode(encoded)?;
            for entry in directory.entries() {
                check(&directories, &entry.node)?;
            }
            directories.insert(Digest::of(encoded), directory);
        }
        check(&directories, &root)?;
        let mut lists = BTreeMap::new();
        for list in &wire.lists {
            lists.insert(digest_field(&list.blob)?, digest_field(&list.list)?);
        }
        Ok(Self {
            root,
            directories,
            lists,
            weight: bytes.len(),
        })
    }
}
