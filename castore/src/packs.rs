//! The packs a store reads from, each in a numbered slot.
//!
//! Slots are small numbers for use in memory; they are given anew at every start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::bytes::{PackBackend, ReadPack};
use crate::pack::PackId;

/// Packs held open at once. A file handle each, well below the usual limit of 1024.
const MAX_OPEN: usize = 256;

/// How long a pack will be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// For as long as anybody can tell.
    Stays,
    /// Until what is needed of it has been moved: what is to be there longer must not rely on it.
    Condemned,
    /// Nothing that is needed is in it any more. It may still be read by who knows where.
    Gone,
}

struct Slot {
    id: PackId,
    sealed: bool,
    standing: Standing,
    reader: Option<Arc<dyn ReadPack>>,
}

/// Every pack by slot and by name.
pub struct Packs {
    backend: Arc<dyn PackBackend>,
    slots: RwLock<Slots>,
    /// The slots that were opened, the oldest first.
    opened: Mutex<VecDeque<u32>>,
    /// Whether some pack does not stay: the usual case is answered without a lock.
    some_go: AtomicBool,
    /// How many packs are gone.
    gone: AtomicU64,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    by_id: HashMap<PackId, u32>,
    condemned: HashSet<PackId>,
}

impl Packs {
    /// No packs yet.
    pub fn new(backend: Arc<dyn PackBackend>) -> Self {
        Self {
            backend,
            slots: RwLock::default(),
            opened: Mutex::default(),
            some_go: AtomicBool::new(false),
            gone: AtomicU64::new(0),
        }
    }

    /// Where they lie.
    pub fn backend(&self) -> &Arc<dyn PackBackend> {
        &self.backend
    }

    /// Gives a pack its slot. An unsealed pack comes with the handle that writes it.
    pub fn add(&self, id: PackId, sealed: bool, reader: Option<Arc<dyn ReadPack>>) -> u32 {
        let mut slots = self.write();
        let slot = slots.slots.len() as u32;
        let condemned = slots.condemned.contains(&id);
        let standing = if condemned { Standing::Condemned } else { Standing::Stays };
        slots.slots.push(Slot { id, sealed, standing, reader });
        slots.by_id.insert(id, slot);
        slot
    }

    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all packs stay.
    pub fn all_stay(&self) -> bool {
        !self.some_go.load(Ordering::Acquire)
    }

    /// Whether no pack is condemned.
    pub fn none_is_condemned(&self) -> bool {
        self.all_stay() || self.read().condemned.is_empty()
    }

    /// How long the pack in a slot will be there.
    pub fn standing(&self, slot: u32) -> Standing {
        let slots = self.read();
        slots.slots.get(slot as usize).map_or(Standing::Gone, |slot| slot.standing)
    }

    /// Condemns just these packs, those included that are not known yet. One that is gone stays gone.
    pub fn condemn_only(&self, condemned: HashSet<PackId>) {
        let mut slots = self.write();
        let Slots { slots: all, .. } = &mut *slots;
        for slot in all.iter_mut().filter(|slot| slot.standing != Standing::Gone) {
            let stays = !condemned.contains(&slot.id);
            slot.standing = if stays { Standing::Stays } else { Standing::Condemned };
        }
        let some_go = all.iter().any(|slot| slot.standing != Standing::Stays);
        self.some_go.store(some_go || !condemned.is_empty(), Ordering::Release);
        slots.condemned = condemned;
    }

    /// Nothing that is needed is in this pack any more.
    pub fn gone(&self, id: PackId) {
        let mut slots = self.write();
        let Some(slot) = slots.by_id.get(&id).copied() else { return };
        if let Some(slot) = slots.slots.get_mut(slot as usize) {
            slot.standing = Standing::Gone;
        }
        self.some_go.store(true, Ordering::Release);
        self.gone.fetch_add(1, Ordering::AcqRel);
    }

    /// How many packs are gone so far: as long as it is the same, records are where they were found.
    pub fn gone_so_far(&self) -> u64 {
        self.gone.load(Ordering::Acquire)
    }

    /// Lets go of a pack that is removed: whoever reads it at this moment finishes.
    pub fn close(&self, id: PackId) {
        let mut slots = self.write();
        let Some(slot) = slots.by_id.get(&id).copied() else { return };
        if let Some(slot) = slots.slots.get_mut(slot as usize) {
            slot.reader = None;
        }
    }

    /// The pack is sealed now: it may be closed and opened again.
    pub fn sealed(&self, slot: u32) {
        let mut slots = self.write();
        if let Some(slot) = slots.slots.get_mut(slot as usize) {
            slot.sealed = true;
            slot.reader = None;
        }
    }

    /// The slot of a pack, if it is there.
    pub fn slot_of(&self, id: PackId) -> Option<u32> {
        self.read().by_id.get(&id).copied()
    }

    /// The name of the pack in a slot.
    pub fn id_of(&self, slot: u32) -> io::Result<PackId> {
        let slots = self.read();
        let slot = slots.slots.get(slot as usize);
        slot.map(|slot| slot.id).ok_or_else(|| io::Error::other("no pack in that slot"))
    }

    /// The names of the packs that are sealed.
    pub fn sealed_ids(&self) -> HashSet<PackId> {
        let slots = self.read();
        let there =
            slots.slots.iter().filter(|slot| slot.sealed && slot.standing != Standing::Gone);
        there.map(|slot| slot.id).collect()
    }

    /// A handle to read the pack with.
    pub fn get(&self, slot: u32) -> io::Result<Arc<dyn ReadPack>> {
        let (id, sealed) = {
            let slots = self.read();
            let slot = slots
                .slots
                .get(slot as usize)
                .ok_or_else(|| io::Error::other("no pack in that slot"))?;
            if let Some(reader) = &slot.reader {
                return Ok(reader.clone());
            }
            (slot.id, slot.sealed)
        };
        let reader = self.backend.open(id, sealed)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push_back(slot);
        let close = if opened.len() > MAX_OPEN { opened.pop_front() } else { None };
        let mut slots = self.write();
        if let Some(close) = close
            && let Some(old) = slots.slots.get_mut(close as usize)
            && old.sealed
        {
            old.reader = None;
        }
        if let Some(slot) = slots.slots.get_mut(slot as usize) {
            slot.reader = Some(reader.clone());
        }
        Ok(reader)
    }
}
