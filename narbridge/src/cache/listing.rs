//! Listings of NARs, made from trees when they are asked for.

use std::sync::Arc;

use castore::{Digest, Store, StoreError};
use nix_compat::store_path::StorePathHash;

use super::{Cache, CacheError, Tag};
use crate::nar;
use crate::records::digest;

/// What listings are made like, as far as tags tell.
const MAKING: &str = "ls1-";

/// A listing that can be made.
pub struct Listing {
    store: Arc<Store>,
    tree: Digest,
}

impl Listing {
    /// The tag of its text. It is told from the tree's name, without making the text.
    pub fn tag(&self) -> Tag {
        Tag::made(MAKING, &self.tree)
    }

    /// The text, JSON.
    pub fn text(&self) -> Result<String, CacheError> {
        let listing = nar::listing(&*self.store.tree(&self.tree)?)?;
        let json = serde_json::to_string(&listing);
        Ok(json.map_err(|error| StoreError::Io(error.into()))?)
    }
}

impl Cache {
    /// The listing of a path's NAR; `None` when the cache does not have the path.
    pub fn listing(&self, hash: StorePathHash) -> Result<Option<Listing>, CacheError> {
        let Some((_, record)) = self.path_record(hash)? else { return Ok(None) };
        let tree = digest(&record.name, &record.tree)?;
        if self.broken.has(&tree) {
            return Ok(None);
        }
        Ok(Some(Listing { store: self.store.clone(), tree }))
    }
}
