//! The packs a store reads from, each in a numbered slot.
//!
//! Slots are small numbers for use in memory; they are given anew at every start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::bytes::{PackBackend, ReadPack};
use crate::pack::PackId;

/// Packs held open at once. A file handle each, well below the usual limit of 1024.
const MAX_OPEN: usize = 256;

struct Slot {
    id: PackId,
    sealed: bool,
    reader: Option<Arc<dyn ReadPack>>,
}

/// Every pack by slot and by name.
pub struct Packs {
    backend: Arc<dyn PackBackend>,
    slots: RwLock<Slots>,
    /// The slots that were opened, the oldest first.
    opened: Mutex<VecDeque<u32>>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    by_id: HashMap<PackId, u32>,
}

impl Packs {
    /// No packs yet.
    pub fn new(backend: Arc<dyn PackBackend>) -> Self {
        Self { backend, slots: RwLock::default(), opened: Mutex::default() }
    }

    /// Where they lie.
    pub fn backend(&self) -> &Arc<dyn PackBackend> {
        &self.backend
    }

    /// Gives a pack its slot. An unsealed pack comes with the handle that writes it.
    pub fn add(&self, id: PackId, sealed: bool, reader: Option<Arc<dyn ReadPack>>) -> u32 {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.slots.len() as u32;
        slots.slots.push(Slot { id, sealed, reader });
        slots.by_id.insert(id, slot);
        slot
    }

    /// The pack is sealed now: it may be closed and opened again.
    pub fn sealed(&self, slot: u32) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.slots.get_mut(slot as usize) {
            slot.sealed = true;
            slot.reader = None;
        }
    }

    /// The slot of a pack, if it is there.
    pub fn slot_of(&self, id: PackId) -> Option<u32> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).copied()
    }

    /// The name of the pack in a slot.
    pub fn id_of(&self, slot: u32) -> io::Result<PackId> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.slots.get(slot as usize);
        slot.map(|slot| slot.id).ok_or_else(|| io::Error::other("no pack in that slot"))
    }

    /// The names of the packs that are sealed.
    pub fn sealed_ids(&self) -> HashSet<PackId> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.slots.iter().filter(|slot| slot.sealed).map(|slot| slot.id).collect()
    }

    /// A handle to read the pack with.
    pub fn get(&self, slot: u32) -> io::Result<Arc<dyn ReadPack>> {
        let (id, sealed) = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
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
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
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
