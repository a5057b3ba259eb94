//! What paths take of the store, and what would be free without them.
//!
//! Chunks are shared by all paths of all caches, so what a path takes by itself is what no other path
//! needs. To find that out, the tree of every path of every cache is read, and the chunk lists of its
//! files: that is for people who want to know, not for loops. Each tree is read once. Destroyed caches
//! do not count.
//!
//! Bytes are those of the chunks as they are stored; trees and lists, some 1 % of that, are left out,
//! and so is what can no longer be found. Memory: some 40 bytes for each chunk of the paths that are
//! asked about, for each tree that is read, and for each file of several chunks in them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use castore::tree::Tree;
use castore::{Cause, Digest, Kind, Store, StoreError};
use nix_compat::store_path::StorePathHash;

use crate::cache::{Cache, CacheError};
use crate::records::{PathRecord, RecordError, digest};
use crate::storehouse::Storehouse;

/// What a path takes of the store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathSizes {
    /// What no other path needs.
    pub own: u64,
    /// What others need as well.
    pub shared: u64,
    /// The path and all that it refers to, directly or not, as far as its cache has it.
    pub closure: u64,
}

/// What a cache holds, and what would be free without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheContents {
    /// Paths.
    pub paths: u64,
    /// Length of their NARs, in bytes.
    pub nar_size: u64,
    /// Bytes of the store that no path of another cache needs.
    pub own: u64,
}

impl Storehouse {
    /// What a path takes; `None` when the cache does not have it. Reads every tree of the store.
    pub fn path_sizes(
        &self,
        cache: &Cache,
        path: StorePathHash,
    ) -> Result<Option<PathSizes>, CacheError> {
        let Some((_, record)) = cache.path_record(path)? else { return Ok(None) };
        let closure = self.closure_bytes(cache, path)?;
        let mut chunks = Chunks::default();
        chunks.add(self.store(), &mut Walk::new(self.store()), &tree_of(&record)?)?;
        let all = chunks.bytes();
        let own = self.only(chunks, |other, hash| other == cache.number() && hash == path)?;
        Ok(Some(PathSizes { own, shared: all - own, closure }))
    }

    /// The bytes of the store that only these paths of a cache need: what will be free once they
    /// are deleted and collected. Reads every tree of the store.
    pub fn only_of(
        &self,
        cache: &Cache,
        paths: &HashSet<StorePathHash>,
    ) -> Result<u64, CacheError> {
        let (mut chunks, mut walk) = (Chunks::default(), Walk::new(self.store()));
        for path in paths {
            if let Some((_, record)) = cache.path_record(*path)? {
                chunks.add(self.store(), &mut walk, &tree_of(&record)?)?;
            }
        }
        self.only(chunks, |other, hash| other == cache.number() && paths.contains(&hash))
    }

    /// What a cache holds. Reads every tree of the store.
    pub fn contents(&self, cache: &Cache) -> Result<CacheContents, CacheError> {
        let mut contents = CacheContents::default();
        let (mut chunks, mut walk) = (Chunks::default(), Walk::new(self.store()));
        cache.each_path(|_, _, record| {
            contents.paths += 1;
            contents.nar_size += record.nar_size;
            chunks.add(self.store(), &mut walk, &tree_of(&record)?)
        })?;
        contents.own = self.only(chunks, |other, _| other == cache.number())?;
        Ok(contents)
    }

    /// The bytes of all chunks of a path's closure.
    fn closure_bytes(&self, cache: &Cache, path: StorePathHash) -> Result<u64, CacheError> {
        let (mut chunks, mut walk) = (Chunks::default(), Walk::new(self.store()));
        let (mut seen, mut open) = (HashSet::from([path]), VecDeque::from([path]));
        while let Some(path) = open.pop_front() {
            let Some((_, record)) = cache.path_record(path)? else { continue };
            chunks.add(self.store(), &mut walk, &tree_of(&record)?)?;
            open.extend(record.reference_hashes().filter(|other| seen.insert(*other)));
        }
        Ok(chunks.bytes())
    }

    /// The bytes of those chunks that no path needs but those of which `asked` holds, which is given
    /// the number of a cache and a hash part.
    fn only(
        &self,
        mut chunks: Chunks,
        asked: impl Fn(u32, StorePathHash) -> bool,
    ) -> Result<u64, CacheError> {
        let mut walk = Walk::new(self.store());
        for cache in self.caches().iter().filter(|cache| cache.destroyed().is_none()) {
            cache.each_path(|hash, _, record| {
                if chunks.0.is_empty() || asked(cache.number(), hash) {
                    return Ok(());
                }
                walk.tree(&tree_of(&record)?, |chunk| {
                    chunks.0.remove(&Short::of(chunk));
                    Ok(())
                })
            })?;
        }
        Ok(chunks.bytes())
    }
}

fn tree_of(record: &PathRecord) -> Result<Digest, RecordError> {
    digest(&record.name, &record.tree)
}

/// The first half of a digest, which tells apart whatever one store can hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Short([u8; 16]);

impl Short {
    fn of(digest: &Digest) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&digest.as_bytes()[..16]);
        Self(first)
    }
}

/// Chunks with the length of what is stored of each.
#[derive(Default)]
struct Chunks(HashMap<Short, u32>);

impl Chunks {
    fn add(&mut self, store: &Store, walk: &mut Walk<'_>, tree: &Digest) -> Result<(), CacheError> {
        walk.tree(tree, |chunk| {
            let short = Short::of(chunk);
            if !self.0.contains_key(&short)
                && let Some(location) = store.locate(Kind::Chunk, chunk)?
            {
                self.0.insert(short, location.stored);
            }
            Ok(())
        })
    }

    fn bytes(&self) -> u64 {
        self.0.values().map(|stored| u64::from(*stored)).sum()
    }
}

/// Goes through trees down to their chunks, each tree and each long file once.
struct Walk<'a> {
    store: &'a Arc<Store>,
    trees: HashSet<Short>,
    blobs: HashSet<Short>,
}

impl<'a> Walk<'a> {
    fn new(store: &'a Arc<Store>) -> Self {
        Self { store, trees: HashSet::new(), blobs: HashSet::new() }
    }

    /// Gives the chunks of a tree to `each`, some more than once, unless it was walked before.
    fn tree(
        &mut self,
        tree: &Digest,
        mut each: impl FnMut(&Digest) -> Result<(), StoreError>,
    ) -> Result<(), CacheError> {
        if !self.trees.insert(Short::of(tree)) {
            return Ok(());
        }
        // Not by the store's cache of trees, out of which this would push those that are in use.
        let read = self.store.encoded_tree(tree).and_then(|bytes| Ok(Tree::decode(&bytes)?));
        let Some(tree) = found(read)? else { return Ok(()) };
        for (blob, size) in tree.files() {
            if tree.list_of(&blob).is_some() && !self.blobs.insert(Short::of(&blob)) {
                continue;
            }
            let chunks = found(self.store.chunks_of(&tree, &blob, size))?;
            for chunk in chunks.unwrap_or_default() {
                each(&chunk.digest)?;
            }
        }
        Ok(())
    }
}

/// What was read; `None` where it is lost, which is fsck's matter.
fn found<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.cause() == Cause::Lost => {
            tracing::warn!(%error, "left out of a size");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
