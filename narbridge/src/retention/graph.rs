//! The paths of a cache and what they refer to, in little memory.
//!
//! A path is a number here, and its references are numbers in one long list, so that a million paths
//! with ten references each take some 150 MB while they are gathered. What is referred to before it was
//! seen, or is not in the cache at all, has a number too; such a path is *absent* until it is added.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use nix_compat::store_path::StorePathHash;

use crate::records::RecordError;

/// What a plan has to know of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// When it was last used, in seconds since 1970.
    pub used: u64,
    /// When it was uploaded, in seconds since 1970.
    pub uploaded: u64,
    /// Length of its NAR as zstd.
    pub size: u64,
    /// Sequence number of its record.
    pub sequence: u64,
}

#[derive(Clone, Copy, Default)]
struct Node {
    facts: Facts,
    /// Where its references begin.
    first: usize,
    references: u32,
    present: bool,
}

/// Paths by number.
#[derive(Default)]
pub(crate) struct Graph {
    hashes: Vec<StorePathHash>,
    nodes: Vec<Node>,
    references: Vec<u32>,
}

impl Graph {
    /// Numbers up to this are in use, by absent paths too.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The paths that are in the cache.
    pub(super) fn present(&self) -> impl Iterator<Item = u32> {
        let numbered = (0_u32..).zip(&self.nodes);
        numbered.filter(|(_, node)| node.present).map(|(number, _)| number)
    }

    /// What is known of a path.
    pub(super) fn facts(&self, number: u32) -> &Facts {
        &self.nodes[number as usize].facts
    }

    /// The hash part of a path.
    pub(super) fn hash(&self, number: u32) -> StorePathHash {
        self.hashes[number as usize]
    }

    /// What a path refers to, itself left out.
    pub(super) fn references(&self, number: u32) -> &[u32] {
        let node = &self.nodes[number as usize];
        &self.references[node.first..][..node.references as usize]
    }
}

/// A graph that grows.
#[derive(Default)]
pub(crate) struct Gathering {
    graph: Graph,
    numbers: HashMap<StorePathHash, u32>,
}

impl Gathering {
    /// Adds a path, once.
    pub(crate) fn add(
        &mut self,
        hash: StorePathHash,
        facts: Facts,
        references: impl IntoIterator<Item = StorePathHash>,
    ) -> Result<(), RecordError> {
        let number = self.number(hash)?;
        let first = self.graph.references.len();
        for reference in references.into_iter().filter(|reference| *reference != hash) {
            let reference = self.number(reference)?;
            self.graph.references.push(reference);
        }
        let references = u32::try_from(self.graph.references.len() - first);
        let references = references.map_err(|_| too_many("references of a path"))?;
        self.graph.nodes[number as usize] = Node { facts, first, references, present: true };
        Ok(())
    }

    fn number(&mut self, hash: StorePathHash) -> Result<u32, RecordError> {
        let next = self.graph.nodes.len();
        match self.numbers.entry(hash) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                let number = u32::try_from(next).map_err(|_| too_many("paths"))?;
                self.graph.nodes.push(Node::default());
                self.graph.hashes.push(hash);
                Ok(*entry.insert(number))
            }
        }
    }

    /// The graph, and the numbers of those of these paths that are in it.
    pub(crate) fn finish(self, wanted: &[StorePathHash]) -> (Graph, Vec<u32>) {
        let found = wanted.iter().filter_map(|hash| self.numbers.get(hash).copied());
        (self.graph, found.collect())
    }
}

fn too_many(what: &str) -> RecordError {
    RecordError::new("a cache", format!("there are more {what} than can be counted"))
}
