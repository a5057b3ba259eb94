//! The order of a path's chunks: that of its NAR, in which they also lie in the packs.
//!
//! Each chunk has a number, from 0, at its first appearance. Profiles name chunks by it, and what lies
//! behind a chunk is what is likely to be read next.

use std::collections::HashMap;

use castore::Digest;
use castore::tree::Node;

use crate::view::{FileRef, LazyPath};

#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Digest and plain length.
    chunks: Vec<(Digest, u32)>,
    numbers: HashMap<Digest, u32>,
}

impl Order {
    pub fn of(path: &LazyPath) -> Self {
        let mut order = Self::default();
        let mut rest = vec![path.tree.root()];
        while let Some(node) = rest.pop() {
            match node {
                Node::Directory { digest, .. } => {
                    // A tree that is in memory is whole.
                    let entries = path.tree.directory(digest).map(|below| below.entries());
                    rest.extend(entries.unwrap_or_default().iter().rev().map(|entry| &entry.node));
                }
                Node::File { digest, size, .. } => {
                    let file = FileRef { digest: *digest, size: *size };
                    for chunk in path.chunks(&file).unwrap_or_default().iter() {
                        order.add(chunk.digest, chunk.size);
                    }
                }
                Node::Symlink { .. } => {}
            }
        }
        order
    }

    fn add(&mut self, digest: Digest, size: u32) {
        let next = self.chunks.len() as u32;
        if *self.numbers.entry(digest).or_insert(next) == next {
            self.chunks.push((digest, size));
        }
    }

    /// The number of a chunk.
    pub fn number(&self, digest: &Digest) -> Option<u32> {
        self.numbers.get(digest).copied()
    }

    /// The chunk of that number.
    pub fn chunk(&self, number: u32) -> Option<(Digest, u32)> {
        self.chunks.get(number as usize).copied()
    }

    /// The chunks behind that one.
    pub fn behind(&self, digest: &Digest) -> &[(Digest, u32)] {
        let next = self.number(digest).map_or(self.chunks.len(), |number| number as usize + 1);
        self.chunks.get(next..).unwrap_or_default()
    }
}
