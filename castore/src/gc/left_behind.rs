//! What was needed and damaged, and is in no pack any more since the one it lay in was removed.
//!
//! Its mark went with the pack ([`damaged`](super::damaged)). Without this it would count as missing from
//! then on, and a tree that is missing keeps packs from being collected: a pack may have got lost that can
//! be had from a backup. Nobody has this one, so nothing is to wait for it.
//!
//! ```text
//! "z" kind(1) digest(32) -> nothing
//! ```
//!
//! It is forgotten once the record is there again, or nothing needs it any more. Like other marks it is in
//! the index alone.

use super::Live;
use crate::Digest;
use crate::index::{Batch, each_pair};
use crate::pack::Kind;
use crate::store::{Store, StoreError};

const PREFIX: u8 = b'z';

fn key(kind: Kind, digest: &Digest) -> Vec<u8> {
    [&[PREFIX, kind as u8][..], digest.as_bytes()].concat()
}

impl Store {
    /// These records are damaged, and their packs are about to be removed.
    pub(super) fn leave_behind(&self, records: &[(Kind, Digest)]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        // Marking looks into these, and misses nothing else.
        let named = |kind| matches!(kind, Kind::Tree | Kind::ChunkList);
        for (kind, digest) in records.iter().filter(|(kind, _)| named(*kind)) {
            batch.put(key(*kind, digest), []);
        }
        if batch.change.is_empty() {
            return Ok(());
        }
        self.index.apply(&batch)?;
        Ok(self.index.flush()?)
    }

    /// What was left behind and has not been forgotten.
    pub(super) fn left_behind(&self) -> Result<Vec<(Kind, Digest)>, StoreError> {
        let mut records = Vec::new();
        each_pair(&*self.index, &[PREFIX], |key, _| {
            let kind = key.get(1).and_then(|kind| Kind::from_number(*kind));
            records.extend(kind.zip(key.get(2..).and_then(Digest::from_slice)));
            Ok(())
        })?;
        Ok(records)
    }

    /// Forgets what is there again, and what nothing needs. `live` has everything marked that facts name.
    pub(super) fn forget_left_behind(&self, live: &Live) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (kind, digest) in self.left_behind()? {
            if !live.may_need(&digest, kind) || self.stays(kind, &digest)? {
                batch.remove(key(kind, &digest));
            }
        }
        if batch.change.is_empty() { Ok(()) } else { Ok(self.index.apply(&batch)?) }
    }
}
