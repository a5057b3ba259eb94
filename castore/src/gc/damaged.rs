//! Records that are known to be damaged count as not being there, so that whoever has them may bring them
//! again.
//!
//! ```text
//! "q" pack(16) offset(8, big-endian) -> kind(1) digest(32)
//! ```
//!
//! They are kept in the index alone: one that is remade has them found again, by reading. A record that
//! is whole again, because its pack was put back, is not damaged any more once it has been looked at.

use std::collections::HashSet;
use std::io;

use crate::Digest;
use crate::fsck::Damage;
use crate::index::{Batch, IndexError, each_pair, number};
use crate::locations::Location;
use crate::pack::{FrameDecoder, HEADER_LEN, Kind, PackId, RecordHeader};
use crate::packs::Standing;
use crate::store::{Place, Store, StoreError};

const PREFIX: u8 = b'q';
const PAGE: usize = 1000;

fn key(pack: PackId, offset: u64) -> Vec<u8> {
    [&[PREFIX][..], pack.as_bytes(), &offset.to_be_bytes()].concat()
}

fn value(kind: Kind, digest: &Digest) -> Vec<u8> {
    [&[kind as u8][..], digest.as_bytes()].concat()
}

/// Whether a record of that kind is read where it lies, and can be brought again. Nobody can bring facts
/// again, and of a claim only that a footer names it is ever looked at.
fn can_come_again(kind: Kind) -> bool {
    matches!(kind, Kind::Chunk | Kind::ChunkList | Kind::Tree)
}

/// A record that is marked.
struct Marked {
    pack: PackId,
    offset: u64,
    /// `None` where the mark does not say it.
    record: Option<(Kind, Digest)>,
}

impl Store {
    /// A record was found damaged where it lies: from now on it counts as missing, here and after a
    /// restart. Other processes learn of it within a moment.
    pub fn mark_damaged(&self, digest: &Digest, location: &Location) -> Result<(), StoreError> {
        let pack = self.packs().id_of(location.pack)?;
        self.mark(&[(pack, location.offset, location.kind, *digest)])?;
        Ok(())
    }

    /// The same for what a check has found, but in packs that were removed meanwhile: what cannot be read
    /// of those says nothing. Returns how many records were not known to be damaged.
    pub fn mark_all_damaged(&self, damage: &Damage) -> Result<u64, StoreError> {
        let mut removed = HashSet::new();
        for pack in damage.packs() {
            if self.was_removed(pack)? {
                removed.insert(pack);
            }
        }
        let records = damage.records().filter(|(pack, ..)| !removed.contains(pack));
        let records: Vec<_> = records.collect();
        let marked = records.chunks(PAGE).map(|records| self.mark(records));
        marked.sum()
    }

    fn mark(&self, records: &[(PackId, u64, Kind, Digest)]) -> Result<u64, StoreError> {
        let mut batch = Batch::default();
        let mut marked = 0;
        for (pack, offset, kind, digest) in records {
            if !can_come_again(*kind) {
                continue;
            }
            let key = key(*pack, *offset);
            if self.index.get(&key)?.is_none() {
                marked += 1;
                tracing::error!(%pack, offset, %kind, %digest, "a damaged record counts as missing");
                batch.put(key, value(*kind, digest));
            }
        }
        if marked > 0 {
            self.index.apply(&batch)?;
            self.index.flush()?;
        }
        for (pack, offset, kind, digest) in records {
            if let Some(slot) = self.packs().slot_of(*pack).filter(|_| can_come_again(*kind)) {
                self.locations().add_damaged(slot, *offset);
                self.forget_tree(digest);
            }
        }
        Ok(marked)
    }

    /// Whether a pack that a check has read is not there any more.
    pub(crate) fn was_removed(&self, pack: PackId) -> Result<bool, StoreError> {
        self.catch_up()?;
        let standing = self.packs().slot_of(pack).map(|slot| self.packs().standing(slot));
        Ok(match standing {
            Some(Standing::Gone) => true,
            // One that is not sealed is in no list of those that are.
            Some(_) if !self.packs().sealed_ids().contains(&pack) => false,
            _ => self.packs().backend().stat(pack)?.is_none(),
        })
    }

    /// Everything that is known to be damaged, as kind and digest.
    pub fn damaged(&self) -> Result<Vec<(Kind, Digest)>, StoreError> {
        let mut damaged = Vec::new();
        self.each_damaged(|marked| damaged.extend(marked.record))?;
        Ok(damaged)
    }

    /// A number that changes whenever it does what is known to be damaged: what was looked up before may
    /// be somewhere else by now.
    pub fn damage_changes(&self) -> u64 {
        self.locations().damage_changes()
    }

    /// Looks again at what is known to be damaged. What is whole by now counts as being there again.
    /// Returns how many records that were.
    pub fn recheck_damaged(&self) -> Result<u64, StoreError> {
        self.forget_removed()?;
        self.recheck(|_| true)
    }

    /// Forgets what was marked in packs while they were removed.
    fn forget_removed(&self) -> Result<(), StoreError> {
        let is_known = |pack: &PackId| {
            let slot = self.packs().slot_of(*pack);
            slot.is_some_and(|slot| self.packs().standing(slot) != Standing::Gone)
        };
        let mut unknown = HashSet::new();
        self.each_damaged(|marked| {
            unknown.extend(Some(marked.pack).filter(|pack| !is_known(pack)));
        })?;
        if unknown.is_empty() {
            return Ok(());
        }
        let listed = self.packs().backend().list()?;
        // Others may have stored one meanwhile, and where there is nothing at all, it is the place that is
        // wrong.
        self.catch_up()?;
        unknown.retain(|pack| !is_known(pack) && listed.iter().all(|listed| listed.id != *pack));
        if listed.is_empty() || unknown.is_empty() {
            return Ok(());
        }
        self.forget_damaged(&unknown.into_iter().collect::<Vec<_>>())?;
        self.load_damaged()
    }

    /// The same for packs that are not sealed: what was damaged in one may have been cut off since.
    pub(crate) fn recheck_unsealed(&self) -> Result<u64, StoreError> {
        let sealed = self.packs().sealed_ids();
        self.recheck(|pack| !sealed.contains(pack) && self.packs().slot_of(*pack).is_some())
    }

    fn recheck(&self, which: impl Fn(&PackId) -> bool) -> Result<u64, StoreError> {
        let mut all = Vec::new();
        self.each_damaged(|marked| all.extend(Some(marked).filter(|it| which(&it.pack))))?;
        let mut batch = Batch::default();
        let (mut decoder, mut whole) = (FrameDecoder::new()?, 0);
        for Marked { pack, offset, record } in all {
            let sound = match record {
                Some((kind, digest)) => self.is_whole(pack, offset, kind, &digest, &mut decoder)?,
                None => false,
            };
            if sound {
                batch.remove(key(pack, offset));
                whole += 1;
            }
        }
        if whole > 0 {
            self.index.apply(&batch)?;
            self.index.flush()?;
            self.load_damaged()?;
        }
        Ok(whole)
    }

    /// Whether the record that should lie there does, or another one that is sound.
    fn is_whole(
        &self,
        pack: PackId,
        offset: u64,
        kind: Kind,
        digest: &Digest,
        decoder: &mut FrameDecoder,
    ) -> Result<bool, StoreError> {
        let Some(slot) = self.packs().slot_of(pack) else { return Ok(false) };
        let read = || -> io::Result<Option<(RecordHeader, Vec<u8>)>> {
            let pack = self.packs().get(slot)?;
            let mut head = [0; HEADER_LEN];
            pack.distrust(offset..offset + HEADER_LEN as u64);
            pack.read_at(offset, &mut head)?;
            let Some(header) = RecordHeader::parse(&head) else { return Ok(None) };
            let start = offset + HEADER_LEN as u64;
            let end = start + u64::from(header.stored);
            if end > pack.len()? {
                return Ok(None);
            }
            let mut frames = vec![0; header.stored as usize];
            pack.distrust(start..end);
            pack.read_at(start, &mut frames)?;
            Ok(Some((header, frames)))
        };
        let (header, frames) = match read() {
            Ok(Some(found)) => found,
            Err(error) if crate::fsck::is_out_of_reach(&error) => return Err(error.into()),
            // It still is.
            Ok(None) | Err(_) => return Ok(false),
        };
        if header.expected_checksum(&frames) != header.checksum {
            return Ok(false);
        }
        if header.kind != kind || header.digest != *digest {
            // The damage was in a pack that was not sealed, and was cut off with what lay behind it.
            return Ok(true);
        }
        let mut plain = Vec::new();
        let decoded = decoder.append(&mut plain, &frames, header.plain as usize).is_ok();
        // A list is named by its blob.
        Ok(decoded && (kind == Kind::ChunkList || Digest::of(&plain) == *digest))
    }

    /// Takes in what is known to be damaged.
    pub(crate) fn load_damaged(&self) -> Result<(), StoreError> {
        let mut all = HashSet::new();
        self.each_damaged(|marked| {
            all.extend(self.packs().slot_of(marked.pack).map(|slot| (slot, marked.offset)));
        })?;
        self.locations().set_damaged(all);
        Ok(())
    }

    /// The packs are removed.
    pub(super) fn forget_damaged(&self, packs: &[PackId]) -> Result<(), StoreError> {
        let packs: HashSet<&PackId> = packs.iter().collect();
        let mut batch = Batch::default();
        self.each_damaged(|marked| {
            if packs.contains(&marked.pack) {
                batch.remove(key(marked.pack, marked.offset));
            }
        })?;
        Ok(self.index.apply(&batch)?)
    }

    /// Whether a pack that could not be read is not there any more, and its place is.
    pub(crate) fn is_pack_lost(&self, slot: u32) -> Result<bool, StoreError> {
        let id = self.packs().id_of(slot)?;
        self.reach(Place::Packs)?;
        let listed = self.packs().backend().list()?;
        // Where there is nothing at all, it is the place that is wrong.
        Ok(!listed.is_empty() && listed.iter().all(|listed| listed.id != id))
    }

    /// A pack is lost with what was in it: all of that counts as missing.
    pub(crate) fn lose_pack(&self, slot: u32) -> Result<(), StoreError> {
        let pack = self.packs().id_of(slot)?;
        tracing::error!(%pack, "a pack is gone: what was in it counts as missing");
        if self.registry().is_some() {
            // Who shares the index has to learn of it, and it may be put back.
            let mut records = Vec::new();
            self.locations().each_row(&mut |digest, location| {
                if location.pack == slot {
                    records.push((pack, location.offset, location.kind, *digest));
                }
            })?;
            records.chunks(PAGE).try_for_each(|records| self.mark(records).map(drop))
        } else {
            // The next start does not find it.
            self.packs().gone(pack);
            self.packs().close(pack);
            self.locations().leave_out_gone();
            Ok(())
        }
    }

    /// Looks for packs that are gone, and loses them. Returns which.
    pub(crate) fn lose_packs(&self) -> Result<Vec<PackId>, StoreError> {
        self.catch_up()?;
        let known = self.packs().sealed_ids();
        self.reach(Place::Packs)?;
        let listed = self.packs().backend().list()?;
        let listed: HashSet<PackId> = listed.into_iter().map(|listed| listed.id).collect();
        let mut lost = Vec::new();
        for id in known.into_iter().filter(|id| !listed.contains(id)) {
            let slot = self.packs().slot_of(id);
            // It may have been collected meanwhile.
            self.catch_up()?;
            let stays = |slot: &u32| self.packs().standing(*slot) == Standing::Stays;
            if let Some(slot) = slot.filter(stays)
                && self.is_pack_lost(slot)?
            {
                self.lose_pack(slot)?;
                lost.push(id);
            }
        }
        lost.sort_unstable();
        Ok(lost)
    }

    fn each_damaged(&self, mut each: impl FnMut(Marked)) -> Result<(), IndexError> {
        each_pair(&*self.index, &[PREFIX], |key, value| {
            if let Some((pack, offset)) = key[1..].split_first_chunk::<{ PackId::LEN }>() {
                let kind = value.first().and_then(|kind| Kind::from_number(*kind));
                let record = kind.zip(value.get(1..).and_then(Digest::from_slice));
                let (pack, offset) = (PackId::from_bytes(*pack), number(Some(offset)));
                each(Marked { pack, offset, record });
            }
            Ok(())
        })
    }
}
