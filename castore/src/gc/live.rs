//! What is needed: everything that facts name.
//!
//! Held as a filter, 16 bits for each record there is, however many there are: a record that it takes for
//! needed by mistake, three in a thousand, stays until the next time. Which trees and lists were looked into
//! already must not be mistaken, and is held as 16 bytes each.

use std::collections::HashSet;
use std::sync::Arc;

use crate::Digest;
use crate::holder::Holder;
use crate::locations::Filter;
use crate::pack::{Kind, PackId};
use crate::store::{Cause, Store, StoreError};
use crate::tree::ChunkList;

/// The filter has twelve bits for each key that it is made for.
const ROOM: u64 = 4;

/// What is needed.
pub struct Live {
    store: Arc<Store>,
    filter: Filter,
    /// So many keys it was made for.
    room: u64,
    /// So many it has.
    keys: u64,
    /// The packs that were sealed when this was begun.
    pub(super) packs: HashSet<PackId>,
    /// The epoch in which it was begun.
    pub(super) epoch: u64,
    /// What is known to be damaged, and so counts as not being there; also if its pack was removed since.
    known_damaged: HashSet<(Kind, Digest)>,
    /// By digest and holder.
    seen: HashSet<u128>,
    /// Trees that were marked, each once.
    pub trees: u64,
    /// Chunks that were marked, each wherever it appears.
    pub chunks: u64,
    /// Trees and lists that are named, and are damaged.
    pub damaged: u64,
    /// Trees and lists that are named, and are not there at all.
    pub missing: u64,
}

impl Store {
    /// Nothing is marked yet. What is committed from now on need not be.
    pub fn live(self: &Arc<Self>) -> Result<Live, StoreError> {
        self.follow_epoch()?;
        let epoch = self.epoch();
        self.catch_up()?;
        let rows = self.locations.row_count().max(1024);
        let room = rows + rows / ROOM;
        let packs = self.packs.sealed_ids();
        let known_damaged = self.damaged()?.into_iter().chain(self.left_behind()?).collect();
        Ok(Live {
            store: self.clone(),
            filter: Filter::for_keys(room as usize),
            room,
            keys: 0,
            packs,
            epoch,
            known_damaged,
            seen: HashSet::new(),
            trees: 0,
            chunks: 0,
            damaged: 0,
            missing: 0,
        })
    }
}

impl Live {
    /// Marks a tree with all that it names, and the claims of `holders` to its chunks.
    pub fn tree(&mut self, digest: &Digest, holders: &[Holder]) -> Result<(), StoreError> {
        if !self.is_news(digest, Kind::Tree, holders) {
            return Ok(());
        }
        self.insert(digest, Kind::Tree);
        self.trees += 1;
        let tree = match self.store.tree_uncached(digest) {
            Ok(tree) => tree,
            Err(error) => return self.lost(error),
        };
        for (blob, _) in tree.files() {
            match tree.list_of(&blob) {
                None => self.chunk(&blob, holders),
                Some(list) if self.is_news(&blob, Kind::ChunkList, holders) => {
                    self.insert(&blob, Kind::ChunkList);
                    match self.store.encoded_list(&blob, &list) {
                        Ok(list) => {
                            for chunk in ChunkList::decode(&list)?.chunks {
                                self.chunk(&chunk.digest, holders);
                            }
                        }
                        Err(error) => self.lost(error)?,
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Counts what is lost; any other error is one.
    fn lost(&mut self, error: StoreError) -> Result<(), StoreError> {
        match &error {
            StoreError::Missing { kind, digest }
                if !self.known_damaged.contains(&(*kind, *digest)) =>
            {
                self.missing += 1;
            }
            _ if error.cause() == Cause::Lost || matches!(error, StoreError::Tree(_)) => {
                self.damaged += 1;
            }
            _ => return Err(error),
        }
        tracing::error!(%error, "something that is needed is lost: granary fsck says whose it is");
        Ok(())
    }

    fn chunk(&mut self, digest: &Digest, holders: &[Holder]) {
        self.chunks += 1;
        self.insert(digest, Kind::Chunk);
        for holder in holders {
            self.insert(&holder.claim(digest), Kind::Claim);
        }
    }

    fn insert(&mut self, digest: &Digest, kind: Kind) {
        let before = self.is_crowded();
        self.keys += u64::from(self.filter.insert(digest, kind));
        if self.is_crowded() && !before {
            let room = self.room;
            tracing::warn!(
                room,
                "more is needed than there is: much that nobody needs will be kept"
            );
        }
    }

    /// Whether much more was marked than there are records, as when holders are named that have no claims.
    /// Much of what is not needed is taken for needed then.
    pub fn is_crowded(&self) -> bool {
        self.keys > 2 * self.room
    }

    /// Whether this was not looked into before, for one of the holders; or for nobody, if there are none.
    fn is_news(&mut self, digest: &Digest, kind: Kind, holders: &[Holder]) -> bool {
        if holders.is_empty() {
            return self.seen.insert(seen_key(digest, kind, &[]));
        }
        // All of them, not just the first that is news.
        holders.iter().fold(false, |news, holder| {
            self.seen.insert(seen_key(digest, kind, holder.as_bytes())) | news
        })
    }

    /// Whether a record may be needed. Facts always are.
    pub(super) fn may_need(&self, digest: &Digest, kind: Kind) -> bool {
        kind == Kind::Facts || self.filter.may_contain(digest, kind)
    }

    /// Whether a tree may be needed.
    pub fn may_need_tree(&self, digest: &Digest) -> bool {
        self.may_need(digest, Kind::Tree)
    }

    /// Bytes that this takes in memory.
    pub fn weight(&self) -> u64 {
        (self.filter.words().len() * 8 + self.seen.capacity() * 17) as u64
    }
}

/// What is remembered of a tree or list that was looked into for a holder.
fn seen_key(digest: &Digest, kind: Kind, holder: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    let hash = hasher.update(digest.as_bytes()).update(&[kind as u8]).update(holder).finalize();
    hash.as_bytes()[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn marking_claims_that_nobody_made_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Options::new(&mut |_| ())).unwrap();
        let mut live = store.live().unwrap();
        let holder = |number: u32| Holder::named(&number.to_le_bytes());
        let chunk = |number: u32| Digest::of(&number.to_le_bytes());
        (0..1000).for_each(|number| live.chunk(&chunk(number), &[holder(1)]));
        (0..1000).for_each(|number| live.chunk(&chunk(number), &[holder(1)]));
        assert!(!live.is_crowded());
        let holders: Vec<Holder> = (0..10).map(holder).collect();
        (0..1000).for_each(|number| live.chunk(&chunk(number), &holders));
        assert!(live.is_crowded());
    }
}
