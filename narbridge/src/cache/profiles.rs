//! Profiles: which chunks of a path were touched first where it was used.
//!
//! They are hints. They are kept in the index only, so a rebuild of the index forgets them, and they
//! are bound to the tree whose chunks they number: a path that is published with another tree has
//! none.

use std::collections::HashSet;

use castore::{Digest, StoreError};
use granary_api::sync::{MAX_PROFILE, PathProfile};
use nix_compat::store_path::StorePathHash;

use super::{Cache, CacheError};
use crate::records::{digest, profile_key};

/// A NAR has at least so many bytes for each of its chunks: the framing of an entry of a directory,
/// or a chunk of the least length.
const NAR_BYTES_PER_CHUNK: u64 = 96;

/// A message that is not a profile.
#[derive(Debug, thiserror::Error)]
#[error("a profile is not valid: {0}")]
pub struct InvalidProfile(&'static str);

/// A profile whose form is right.
#[derive(Debug)]
pub struct Profile {
    hash: StorePathHash,
    chunks: Vec<u8>,
    /// The greatest of its numbers.
    last: u64,
}

impl Profile {
    /// Reads a message from outside.
    pub fn new(message: PathProfile) -> Result<Self, InvalidProfile> {
        let hash: Result<[u8; 20], _> = message.hash.try_into();
        let hash = hash.map_err(|_| InvalidProfile("its hash part has not 20 bytes"))?;
        if message.chunks.len() > MAX_PROFILE {
            return Err(InvalidProfile("it is too long"));
        }
        let (mut rest, mut seen, mut last) = (&message.chunks[..], HashSet::new(), 0);
        while !rest.is_empty() {
            let number = prost::encoding::decode_varint(&mut rest);
            let number = number.map_err(|_| InvalidProfile("it does not hold varints"))?;
            if !seen.insert(number) {
                return Err(InvalidProfile("a chunk comes twice"));
            }
            last = last.max(number);
        }
        Ok(Self { hash: hash.into(), chunks: message.chunks, last })
    }
}

impl Cache {
    /// Keeps a profile for those who ask next; not that of a path that the cache does not have, or
    /// that has not as many chunks.
    ///
    /// The latest use tells most of the next, so a profile replaces the one before it. But a use
    /// that touched much less (a listing, a program that failed) tells less: one of less than half
    /// the length is dropped.
    pub fn keep_profile(&self, profile: &Profile) -> Result<(), CacheError> {
        let Some((_, record)) = self.path_record(profile.hash)? else { return Ok(()) };
        if profile.chunks.is_empty() || profile.last > record.nar_size / NAR_BYTES_PER_CHUNK {
            return Ok(());
        }
        let tree = digest(&record.name, &record.tree)?;
        let before = self.profile(profile.hash, &tree)?.unwrap_or_default();
        if profile.chunks.len() < before.len() / 2 {
            return Ok(());
        }
        let value = [&tree.as_bytes()[..], &profile.chunks].concat();
        Ok(self.store.remember(&profile_key(self.number, profile.hash), &value)?)
    }

    /// The profile of a path that has this tree.
    pub(super) fn profile(
        &self,
        hash: StorePathHash,
        tree: &Digest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let known = self.store.derived(&profile_key(self.number, hash))?;
        Ok(known.and_then(|known| Some(known.strip_prefix(tree.as_bytes())?.to_vec())))
    }
}
