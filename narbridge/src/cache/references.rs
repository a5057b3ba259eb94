//! Which path of a cache refers to which.
//!
//! The whole graph is held in memory: some 80 bytes for each path, and 8 for each reference, or
//! 160 MB for a million paths that refer to ten others each. It is as the cache was while it was read,
//! page by page: what is pushed meanwhile may be in it or not.

use std::collections::{HashMap, HashSet};

use nix_compat::store_path::StorePathHash;

use super::{Cache, CacheError};
use crate::records::RecordError;

/// The paths of a cache, by number, and which refers to which.
#[derive(Default)]
pub struct References {
    numbers: HashMap<StorePathHash, u32>,
    nodes: Vec<Node>,
    /// What each path refers to, those of one path one behind the other.
    to: Vec<u32>,
    /// What refers to each path, likewise, in the order of the paths' numbers.
    from: Vec<u32>,
}

/// A path, or something that a path refers to and that the cache does not have.
struct Node {
    hash: StorePathHash,
    /// Sequence number of the path's fact; `None` where the cache does not have the path.
    sequence: Option<u64>,
    /// Where its references are.
    to: Span,
    /// Where its referrers are.
    from: Span,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    fn of(self, all: &[u32]) -> &[u32] {
        &all[self.start as usize..][..self.length as usize]
    }
}

impl Cache {
    /// Which path refers to which. Reads what the cache says of every path.
    pub fn references(&self) -> Result<References, CacheError> {
        let mut references = References::default();
        self.each_path(|hash, sequence, record| {
            Ok(references.add(hash, sequence, &record.references)?)
        })?;
        references.turn_round();
        Ok(references)
    }
}

/// Paths and references are counted in 32 bits, which no memory would have room for more than.
fn too_many(count: usize) -> Result<u32, RecordError> {
    u32::try_from(count).map_err(|_| RecordError::new("a cache", "it has too many references"))
}

impl References {
    /// Adds a path, with the sequence number of its fact and the base names of what it refers to.
    /// Each path is added once.
    pub(super) fn add(
        &mut self,
        path: StorePathHash,
        sequence: u64,
        names: &[String],
    ) -> Result<(), RecordError> {
        let number = self.number(path)?;
        let start = too_many(self.to.len())?;
        for name in names {
            let to = name.get(..StorePathHash::TEXT_LEN).and_then(|hash| hash.parse().ok());
            let what = || format!("path {path}");
            let to = to.ok_or_else(|| RecordError::new(what(), "a reference is not a path"))?;
            let to = self.number(to)?;
            self.to.push(to);
        }
        let length = too_many(self.to.len())? - start;
        let node = &mut self.nodes[number as usize];
        (node.sequence, node.to) = (Some(sequence), Span { start, length });
        Ok(())
    }

    /// The number of a path, which is given one if it has none yet.
    fn number(&mut self, hash: StorePathHash) -> Result<u32, RecordError> {
        let next = too_many(self.nodes.len())?;
        let number = *self.numbers.entry(hash).or_insert(next);
        if number == next {
            let (to, from) = (Span::default(), Span::default());
            self.nodes.push(Node { hash, sequence: None, to, from });
        }
        Ok(number)
    }

    /// Makes the lists of referrers from those of references, once all paths are there.
    pub(super) fn turn_round(&mut self) {
        for &to in &self.to {
            self.nodes[to as usize].from.length += 1;
        }
        let mut start = 0;
        for node in &mut self.nodes {
            node.from.start = start;
            start += node.from.length;
            node.from.length = 0;
        }
        self.from = vec![0; self.to.len()];
        for number in 0..self.nodes.len() {
            let to = self.nodes[number].to;
            for &to in to.of(&self.to) {
                let from = &mut self.nodes[to as usize].from;
                self.from[(from.start + from.length) as usize] = number as u32;
                from.length += 1;
            }
        }
    }

    /// How many paths the cache has.
    pub fn len(&self) -> usize {
        self.nodes.iter().filter(|node| node.sequence.is_some()).count()
    }

    /// Whether the cache has no paths.
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| node.sequence.is_none())
    }

    /// Whether the cache has the path.
    pub fn has(&self, path: StorePathHash) -> bool {
        self.sequence(path).is_some()
    }

    /// The sequence number of a path's fact; `None` where the cache does not have the path.
    pub fn sequence(&self, path: StorePathHash) -> Option<u64> {
        self.nodes[*self.numbers.get(&path)? as usize].sequence
    }

    /// The paths of the cache that a path refers to itself, without itself.
    pub fn of(&self, path: StorePathHash) -> Vec<StorePathHash> {
        self.beside(path, |node| node.to.of(&self.to))
    }

    /// The paths that refer to a path themselves, without itself.
    pub fn referrers_of(&self, path: StorePathHash) -> Vec<StorePathHash> {
        self.beside(path, |node| node.from.of(&self.from))
    }

    /// Whether any of these refers to another of them.
    pub(super) fn refer_to_each_other(&self, paths: impl Iterator<Item = StorePathHash>) -> bool {
        let paths: HashSet<StorePathHash> = paths.collect();
        paths.iter().any(|path| self.of(*path).iter().any(|to| paths.contains(to)))
    }

    /// These paths and all that they refer to, directly or not; what the cache does not have is
    /// left out.
    pub fn closure(&self, of: &[StorePathHash]) -> Vec<StorePathHash> {
        self.reach(of, |node| node.to.of(&self.to))
    }

    /// These paths and all that refer to them, directly or not; what the cache does not have is
    /// left out.
    pub fn with_referrers(&self, of: &[StorePathHash]) -> Vec<StorePathHash> {
        self.reach(of, |node| node.from.of(&self.from))
    }

    fn beside<'a>(
        &'a self,
        path: StorePathHash,
        next: impl Fn(&'a Node) -> &'a [u32],
    ) -> Vec<StorePathHash> {
        let Some(number) = self.numbers.get(&path) else { return Vec::new() };
        let found = next(&self.nodes[*number as usize]).iter();
        let found =
            found.filter(|other| *other != number).map(|other| &self.nodes[*other as usize]);
        found.filter(|node| node.sequence.is_some()).map(|node| node.hash).collect()
    }

    fn reach<'a>(
        &'a self,
        of: &[StorePathHash],
        next: impl Fn(&'a Node) -> &'a [u32],
    ) -> Vec<StorePathHash> {
        let mut seen = vec![false; self.nodes.len()];
        let mut open: Vec<u32> = of.iter().filter_map(|h| self.numbers.get(h)).copied().collect();
        let mut reached = Vec::new();
        while let Some(number) = open.pop() {
            let node = &self.nodes[number as usize];
            if std::mem::replace(&mut seen[number as usize], true) || node.sequence.is_none() {
                continue;
            }
            reached.push(node.hash);
            open.extend(next(node).iter().filter(|next| !seen[**next as usize]));
        }
        reached
    }
}
