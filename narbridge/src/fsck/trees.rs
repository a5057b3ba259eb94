//! Walking trees down to where their chunks lie, each once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use castore::fsck::Damage;
use castore::tree::{ChunkRef, Tree};
use castore::{Digest, Kind, Store, StoreError};

use super::{Flaw, TreeFlaw, TreeProblem};

/// Stands for a root node, to tell it from others. Holding the nodes themselves would take more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RootMark(u64);

impl RootMark {
    /// The mark of an encoded node.
    pub fn of(root: &[u8]) -> Self {
        Self(Digest::of(root).prefix())
    }
}

/// The trees that were walked, and what was found.
pub(crate) struct Trees<'a> {
    store: &'a Arc<Store>,
    damage: &'a Damage,
    sound: HashMap<Digest, RootMark>,
    unsound: HashMap<Digest, Arc<TreeProblem>>,
    pub trees: u64,
    pub chunks: u64,
    pub bytes: u64,
}

/// What is wrong with the tree at hand, so far.
#[derive(Default)]
struct Found {
    first: Option<TreeFlaw>,
    count: u64,
}

impl Found {
    fn add(&mut self, flaw: TreeFlaw) {
        self.first.get_or_insert(flaw);
        self.count += 1;
    }
}

impl<'a> Trees<'a> {
    pub fn new(store: &'a Arc<Store>, damage: &'a Damage) -> Self {
        let (sound, unsound) = (HashMap::new(), HashMap::new());
        Self { store, damage, sound, unsound, trees: 0, chunks: 0, bytes: 0 }
    }

    /// The same, and that its root is the encoded node that a record gives.
    pub fn check_root(&mut self, digest: &Digest, root: &[u8]) -> Result<Option<Flaw>, StoreError> {
        Ok(match self.check(digest)? {
            Ok(found) => (found != RootMark::of(root)).then_some(Flaw::Root),
            Err(problem) => Some(Flaw::Tree(problem)),
        })
    }

    /// Walks a tree, unless it was walked before. Fails only where the store does not answer.
    pub fn check(
        &mut self,
        digest: &Digest,
    ) -> Result<Result<RootMark, Arc<TreeProblem>>, StoreError> {
        if let Some(root) = self.sound.get(digest) {
            return Ok(Ok(*root));
        }
        if let Some(problem) = self.unsound.get(digest) {
            return Ok(Err(problem.clone()));
        }
        self.trees += 1;
        let mut found = Found::default();
        // Not the store's own cache of trees: what lies in the pack is to be seen.
        let encoded = self.store.encoded_tree(digest);
        let tree = encoded.and_then(|bytes| Ok(Tree::decode(&bytes)?));
        let mut root = None;
        if let Some(tree) = sort_out(tree, &mut found)? {
            root = Some(RootMark::of(&tree.root().encode()));
            self.files(&tree, &mut found)?;
        }
        match (found.first, root) {
            (None, Some(root)) => {
                self.sound.insert(*digest, root);
                Ok(Ok(root))
            }
            (first, _) => {
                let missing = || StoreError::Missing { kind: Kind::Tree, digest: *digest };
                let first = first.unwrap_or_else(|| TreeFlaw::Store(missing()));
                let more = found.count.saturating_sub(1);
                let problem = Arc::new(TreeProblem { first, more });
                self.unsound.insert(*digest, problem.clone());
                Ok(Err(problem))
            }
        }
    }

    fn files(&mut self, tree: &Tree, found: &mut Found) -> Result<(), StoreError> {
        for (blob, size) in tree.files() {
            self.bytes += size;
            let chunks = self.store.chunks_of(tree, &blob, size);
            for chunk in sort_out(chunks, found)?.unwrap_or_default() {
                self.chunks += 1;
                if let Some(flaw) = self.chunk(&chunk)? {
                    found.add(flaw);
                }
            }
        }
        Ok(())
    }

    fn chunk(&self, chunk: &ChunkRef) -> Result<Option<TreeFlaw>, StoreError> {
        let digest = chunk.digest;
        let location = match self.store.locate(Kind::Chunk, &digest) {
            // A table of the index has rotted, and does not find it.
            Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => None,
            location => location?,
        };
        Ok(match location {
            None => Some(TreeFlaw::MissingChunk(digest)),
            Some(location) if location.plain != chunk.size => Some(TreeFlaw::ChunkLength(digest)),
            Some(location) if self.damage.hits(self.store, &location) => {
                Some(TreeFlaw::DamagedChunk(digest))
            }
            Some(_) => None,
        })
    }
}

/// Tells a flaw of what was read, which is noted, from a store that does not answer.
fn sort_out<T>(read: Result<T, StoreError>, found: &mut Found) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ StoreError::Index(_)) => Err(error),
        Err(StoreError::Io(error)) if castore::fsck::is_out_of_reach(&error) => {
            Err(StoreError::Io(error))
        }
        Err(error) => {
            found.add(TreeFlaw::Store(error));
            Ok(None)
        }
    }
}
