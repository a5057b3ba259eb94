//! Building a tree, depth first: directories are entered and left, nodes are put in where the
//! builder stands, and the record comes out at the end.

use std::collections::{BTreeMap, HashSet};

use super::{Directory, Entry, MAX_DEPTH, Node, NodeName, SymlinkTarget, Tree, TreeError};
use crate::Digest;

/// What the directories of one tree may weigh, encoded. They are held in memory until the tree is
/// done; this is room for about a million files.
pub const MAX_TREE: usize = 96 * 1024 * 1024;

/// Why a tree could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A node cannot stand in a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The tree has too many entries to be held in memory.
    #[error("the tree's directories are longer than {MAX_TREE} bytes")]
    TooManyEntries,
    /// The caller's calls do not make up a tree.
    #[error("{0}")]
    Misuse(&'static str),
}

struct OpenDirectory {
    name: Option<NodeName>,
    directory: Directory,
}

/// A tree that grows.
#[derive(Default)]
pub struct TreeBuilder {
    open: Vec<OpenDirectory>,
    root: Option<Node>,
    encoded: Vec<Vec<u8>>,
    known: HashSet<Digest>,
    weight: usize,
    lists: BTreeMap<Digest, Digest>,
}

impl TreeBuilder {
    /// The name that a node is to have where the builder stands; the root has none.
    pub fn name(&self, name: &[u8]) -> Result<Option<NodeName>, BuildError> {
        match (self.open.is_empty(), &self.root) {
            (true, None) if name.is_empty() => Ok(None),
            (true, _) => Err(BuildError::Misuse("a tree has one root, without a name")),
            (false, _) => Ok(Some(name.try_into()?)),
        }
    }

    /// Puts a node in, under a name that [`TreeBuilder::name`] gave.
    pub fn place(&mut self, name: Option<NodeName>, node: Node) -> Result<(), BuildError> {
        match (self.open.last_mut(), name) {
            (Some(parent), Some(name)) => {
                let entry = Entry { name, node };
                self.weight += entry.weight();
                if self.weight > MAX_TREE {
                    return Err(BuildError::TooManyEntries);
                }
                parent.directory.push(entry.name, entry.node)?;
            }
            _ => self.root = Some(node),
        }
        Ok(())
    }

    /// Enters a directory. The root's name is empty.
    pub fn enter_directory(&mut self, name: &[u8]) -> Result<(), BuildError> {
        let name = self.name(name)?;
        if self.open.len() == MAX_DEPTH {
            return Err(TreeError::TooDeep.into());
        }
        self.open.push(OpenDirectory { name, directory: Directory::default() });
        Ok(())
    }

    /// Leaves the directory entered last.
    pub fn leave_directory(&mut self) -> Result<(), BuildError> {
        let done = self.open.pop();
        let done = done.ok_or(BuildError::Misuse("there is no directory to leave"))?;
        let bytes = done.directory.encode();
        let node = done.directory.node_for(&bytes)?;
        if self.known.insert(Digest::of(&bytes)) {
            self.encoded.push(bytes);
        }
        self.place(done.name, node)
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), BuildError> {
        let name = self.name(name)?;
        let target: SymlinkTarget = target.try_into()?;
        self.place(name, Node::Symlink { target })
    }

    /// Says which list makes up a blob of this tree.
    pub fn set_list(&mut self, blob: Digest, list: Digest) {
        self.lists.insert(blob, list);
    }

    /// Whether the blob's list has been given.
    pub fn has_list(&self, blob: &Digest) -> bool {
        self.lists.contains_key(blob)
    }

    /// Whether every directory that was entered has been left.
    pub fn is_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// The root and the encoded tree.
    pub fn finish(self) -> Result<(Node, Vec<u8>), BuildError> {
        if !self.is_closed() {
            return Err(BuildError::Misuse("the tree is not complete"));
        }
        let root = self.root.ok_or(BuildError::Misuse("the tree is empty"))?;
        let bytes = Tree::encode_parts(&root, self.encoded, &self.lists);
        Ok((root, bytes))
    }
}
