//! Telling a lazy reader of paths: their narinfos, trees and lists, a closure at a time.
//!
//! What is said of a path is taken from its narinfo as it is served, references and tree alike, so
//! that the parts of an answer belong together even if the path is published anew meanwhile. One
//! path is held in memory at a time, and of those to come at most as many hash parts as an answer
//! may hold paths.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use castore::{Cause, Digest, StoreError};
use granary_api::sync::{
    MAX_PATHS_AT_ONCE, MAX_SYNC_ANSWER, MAX_SYNCED_PATH, SyncPaths, SyncedPath, TREE_FIELD,
};
use nix_compat::store_path::StorePathHash;
use prost::Message;

use super::{Cache, CacheError};
use crate::records::{RecordError, hash_part};

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidQuestion {
    /// Hash parts of another length.
    #[error("{0}: hash parts of 20 bytes each are wanted, one behind the other")]
    Hashes(&'static str),
    /// Too many paths.
    #[error("hashes: there are more than {MAX_PATHS_AT_ONCE}: ask for fewer at once")]
    TooMany,
}

/// The answer, path by path. Each step blocks.
pub struct Synced {
    cache: Arc<Cache>,
    closure: bool,
    trees: bool,
    /// Paths whose turn is still to come.
    queue: VecDeque<StorePathHash>,
    /// So many paths were queued in all.
    queued: usize,
    /// Paths that were queued, or are known.
    seen: HashSet<StorePathHash>,
    /// Bytes that may still be said.
    room: usize,
}

impl Cache {
    /// Starts to answer. See [`granary_api::sync`] for what is answered, and where it ends.
    pub fn sync(self: &Arc<Self>, question: &SyncPaths) -> Result<Synced, InvalidQuestion> {
        let asked = hashes("hashes", &question.hashes)?;
        if asked.len() > MAX_PATHS_AT_ONCE {
            return Err(InvalidQuestion::TooMany);
        }
        let known = hashes("known", &question.known)?;
        let mut synced = Synced {
            cache: self.clone(),
            closure: question.closure,
            trees: question.trees,
            queue: VecDeque::new(),
            queued: 0,
            seen: HashSet::new(),
            room: MAX_SYNC_ANSWER,
        };
        asked.for_each(|hash| synced.add(hash));
        if question.closure {
            synced.seen.extend(known);
        }
        Ok(synced)
    }

    /// What is said of a path, and what it refers to.
    fn synced_path(
        &self,
        hash: StorePathHash,
        trees: bool,
    ) -> Result<(SyncedPath, Vec<StorePathHash>), CacheError> {
        let mut path = SyncedPath { hash: hash.as_bytes().to_vec(), ..SyncedPath::default() };
        let Some(sent) = self.narinfo(hash)? else { return Ok((path, Vec::new())) };
        let narinfo = sent.text;
        path.narinfo = narinfo.to_vec();
        let field = |name: &str| {
            let text = str::from_utf8(&narinfo).ok()?;
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let damaged = || RecordError::new(format!("path {hash}"), "its narinfo is not one");
        let references = field("References").unwrap_or_default().split_terminator(' ');
        let references = references.map(hash_part);
        let references = references.collect::<Option<_>>().ok_or_else(damaged)?;
        if trees {
            let tree = field(TREE_FIELD).and_then(|tree| tree.parse().ok()).ok_or_else(damaged)?;
            match self.add_tree(&tree, &mut path) {
                Ok(()) => path.profile = self.profile(hash, &tree)?.unwrap_or_default(),
                // Other paths are none the worse.
                Err(error) if error.cause() == Cause::Lost => {
                    tracing::error!(%error, path = %hash, "a tree cannot be served");
                    self.broken.suspect(&tree);
                    (path.tree, path.lists) = (Vec::new(), Vec::new());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((path, references))
    }

    /// Adds the tree and its lists, unless they are too long.
    fn add_tree(&self, digest: &Digest, path: &mut SyncedPath) -> Result<(), StoreError> {
        path.tree = self.store.encoded_tree(digest)?;
        let tree = self.store.tree(digest)?;
        let mut length = path.encoded_len();
        for (blob, list) in tree.lists() {
            let list = self.store.encoded_list(blob, list)?;
            // Each may have a tag and a length before it.
            length += list.len() + 6;
            if length > LONGEST {
                tracing::warn!(tree = %digest, "a tree is too long to be synced: read its NAR");
                (path.tree, path.lists) = (Vec::new(), Vec::new());
                return Ok(());
            }
            path.lists.push(list);
        }
        Ok(())
    }
}

/// How long a message may be before its profile is added.
const LONGEST: usize = MAX_SYNCED_PATH - granary_api::sync::MAX_PROFILE - 16;

impl Synced {
    fn add(&mut self, hash: StorePathHash) {
        // What is beyond the end of the answer need not be remembered.
        if self.queued < MAX_PATHS_AT_ONCE && self.seen.insert(hash) {
            self.queue.push_back(hash);
            self.queued += 1;
        }
    }
}

impl Iterator for Synced {
    type Item = Result<SyncedPath, CacheError>;

    fn next(&mut self) -> Option<Self::Item> {
        let hash = self.queue.pop_front()?;
        let (path, references) = match self.cache.synced_path(hash, self.trees) {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error)),
        };
        if self.closure {
            references.into_iter().for_each(|hash| self.add(hash));
        }
        match self.room.checked_sub(path.encoded_len()) {
            Some(room) => self.room = room,
            None => self.queue.clear(),
        }
        Some(Ok(path))
    }
}

/// Hash parts one behind the other.
fn hashes(
    field: &'static str,
    bytes: &[u8],
) -> Result<impl ExactSizeIterator<Item = StorePathHash>, InvalidQuestion> {
    match bytes.as_chunks::<20>() {
        (hashes, []) => Ok(hashes.iter().map(|hash| StorePathHash::from(*hash))),
        _ => Err(InvalidQuestion::Hashes(field)),
    }
}
