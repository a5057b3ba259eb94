//! Any binary cache: paths come as NARs, which are fetched and verified whole.

use bytes::Bytes;
use castore::Digest;
use granary_api::sync::{SyncPaths, SyncedPath};
use granary_client::migrate::{self, Trust};
use nix_compat::store_path::{StorePath, StorePathHash};

use super::SourceError;
use crate::disk::DiskCache;

/// A binary cache.
pub struct Nars {
    source: migrate::Source,
    name: String,
}

/// A path whose NAR was verified.
pub(crate) struct Whole {
    pub narinfo: String,
    pub tree: Vec<u8>,
    pub lists: Vec<Vec<u8>>,
}

impl Nars {
    /// The binary cache; `name` is what a person calls it.
    pub fn new(source: migrate::Source, name: String) -> Self {
        Self { source, name }
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }
}
