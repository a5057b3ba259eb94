//! Records that are known to be damaged count as not being there, so that whoever has them may bring them
//! again.
//!
//! ```text
//! "q" pack(16) offset(8, big-endian) -> kind(1) digest(32)
//! ```

use std::collections::HashSet;

use super::condemned::epoch_of;
use crate::Digest;
use crate::index::{Batch, IndexError};
use crate::locations::Location;
use crate::pack::{Kind, PackId};
use crate::store::{Store, StoreError};

const PREFIX: u8 = b'q';
const PAGE: usize = 1000;

fn key(pack: PackId, offset: u64) -> Vec<u8> {
    [&[PREFIX][..], pack.as_bytes(), &offset.to_be_bytes()].concat()
}

impl Store {
    /// A record was found damaged where it lies: from now on it counts as missing, here and after a
    /// restart. Other processes learn of it within a moment.
    pub fn mark_damaged(&self, digest: &Digest, location: &Location) -> Result<(), StoreError> {
        let pack = self.packs().id_of(location.pack)?;
        let mut batch = Batch::default();
        let value = [&[location.kind as u8][..], digest.as_bytes()].concat();
        batch.put(key(pack, location.offset), value);
        self.index.apply(&batch)?;
        self.index.flush()?;
        self.locations().add_damaged(location.pack, location.offset);
        self.forget_tree(digest);
        Ok(())
    }

    /// Everything that is known to be damaged, as kind and digest.
    pub fn damaged(&self) -> Result<Vec<(Kind, Digest)>, StoreError> {
        let mut damaged = Vec::new();
        self.each_damaged(|_, _, value| {
            let kind = value.first().and_then(|kind| Kind::from_number(*kind));
            damaged.extend(kind.zip(value.get(1..).and_then(Digest::from_slice)));
        })?;
        Ok(damaged)
    }

    /// Takes in what is known to be damaged.
    pub(crate) fn load_damaged(&self) -> Result<(), StoreError> {
        self.each_damaged(|pack, offset, _| {
            if let Some(slot) = self.packs().slot_of(pack) {
                self.locations().add_damaged(slot, offset);
            }
        })?;
        Ok(())
    }

    /// The packs are removed.
    pub(super) fn forget_damaged(&self, packs: &[PackId]) -> Result<(), StoreError> {
        let packs: HashSet<&PackId> = packs.iter().collect();
        let mut batch = Batch::default();
        self.each_damaged(|pack, offset, _| {
            if packs.contains(&pack) {
                batch.remove(key(pack, offset));
            }
        })?;
        Ok(self.index.apply(&batch)?)
    }

    fn each_damaged(&self, mut each: impl FnMut(PackId, u64, &[u8])) -> Result<(), IndexError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.index.scan(&[PREFIX], after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, value) in &page {
                let Some((pack, offset)) = key[1..].split_first_chunk::<{ PackId::LEN }>() else {
                    continue;
                };
                each(PackId::from_bytes(*pack), epoch_of(Some(offset)), value);
            }
        }
    }
}
