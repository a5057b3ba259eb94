//! Places in which things go wrong when a test wants them to: packs in a folder, and an index.

use std::io::{self, IoSliceMut};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use castore::bytes::{AppendPack, Durability, Listed, LocalPacks, PackBackend, ReadPack, Wait};
use castore::index::{Batch, Index, IndexError, Pairs, SledIndex};
use castore::pack::PackId;
use castore::{Clock, Options, Store};

/// What is asked of a place that keeps packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    Read,
    Write,
    Seal,
    Put,
    Remove,
    Stat,
}

type Fault = dyn Fn(Call, PackId) -> io::Result<()> + Send + Sync;

#[derive(Default)]
struct Faults(Mutex<Option<Arc<Fault>>>);

impl Faults {
    fn meet(&self, call: Call, id: PackId) -> io::Result<()> {
        // It may use the same place.
        let fault = self.0.lock().unwrap().clone();
        fault.map_or(Ok(()), |fault| fault(call, id))
    }
}

/// Packs in a folder.
pub struct Folder {
    packs: Arc<LocalPacks>,
    durability: Durability,
    faults: Arc<Faults>,
}

impl Folder {
    /// As on a disk.
    pub fn disk(dir: &Path) -> Arc<Self> {
        Self::new(dir, Durability::Synced)
    }

    /// As in a bucket: that a pack is gone is noticed when it is read, and not when it is opened.
    pub fn bucket(dir: &Path) -> Arc<Self> {
        Self::new(dir, Durability::Sealed)
    }

    fn new(dir: &Path, durability: Durability) -> Arc<Self> {
        let packs = Arc::new(LocalPacks::open(dir).unwrap());
        Arc::new(Self { packs, durability, faults: Arc::default() })
    }

    /// From now on each call meets this first.
    pub fn fault(&self, fault: impl Fn(Call, PackId) -> io::Result<()> + Send + Sync + 'static) {
        *self.faults.0.lock().unwrap() = Some(Arc::new(fault));
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        *self.faults.0.lock().unwrap() = None;
    }

    pub fn ids(&self) -> Vec<PackId> {
        let mut ids: Vec<PackId> = self.list().unwrap().iter().map(|listed| listed.id).collect();
        ids.sort();
        ids
    }
}

impl PackBackend for Folder {
    fn durability(&self) -> Durability {
        self.durability
    }
    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut listed = self.packs.list()?;
        listed.retain(|listed| listed.sealed || self.durability == Durability::Synced);
        Ok(listed)
    }
    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>> {
        self.faults.meet(Call::Open, id)?;
        let opened = match self.durability {
            Durability::Synced => Some(self.packs.open(id, sealed)?),
            Durability::Sealed => None,
        };
        let (packs, faults) = (self.packs.clone(), self.faults.clone());
        Ok(Arc::new(Reading { packs, faults, id, sealed, opened }))
    }
    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>> {
        let pack = self.packs.create(id)?;
        Ok(Arc::new(Growing { pack, faults: self.faults.clone(), id }))
    }
    fn reopen(&self, id: PackId, len: u64) -> io::Result<Arc<dyn AppendPack>> {
        let pack = self.packs.reopen(id, len)?;
        Ok(Arc::new(Growing { pack, faults: self.faults.clone(), id }))
    }
    fn discard(&self, id: PackId) -> io::Result<()> {
        self.packs.discard(id)
    }
    fn remove(&self, id: PackId) -> io::Result<()> {
        self.faults.meet(Call::Remove, id)?;
        self.packs.remove(id)
    }
    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()> {
        self.faults.meet(Call::Put, id)?;
        self.packs.put(id, pack)
    }
    fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        self.faults.meet(Call::Stat, id)?;
        self.packs.stat(id)
    }
    fn note(&self, name: &str) -> io::Result<Option<String>> {
        self.packs.note(name)
    }
    fn set_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.packs.set_note(name, text)
    }
    fn tidy(&self, older_than: Duration) -> io::Result<u64> {
        self.packs.tidy(older_than)
    }
    fn check(&self) -> io::Result<()> {
        self.packs.check()
    }
}

struct Reading {
    packs: Arc<LocalPacks>,
    faults: Arc<Faults>,
    id: PackId,
    sealed: bool,
    /// `None` where it is opened for each read.
    opened: Option<Arc<dyn ReadPack>>,
}

impl Reading {
    fn pack(&self) -> io::Result<Arc<dyn ReadPack>> {
        self.faults.meet(Call::Read, self.id)?;
        match &self.opened {
            Some(opened) => Ok(opened.clone()),
            None => self.packs.open(self.id, self.sealed),
        }
    }
}

impl ReadPack for Reading {
    fn len(&self) -> io::Result<u64> {
        self.pack()?.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.pack()?.read_at(offset, buffer)
    }
    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        self.pack()?.read_vectored_at(offset, buffers, wait)
    }
}

struct Growing {
    pack: Arc<dyn AppendPack>,
    faults: Arc<Faults>,
    id: PackId,
}

impl ReadPack for Growing {
    fn len(&self) -> io::Result<u64> {
        self.pack.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.pack.read_at(offset, buffer)
    }
    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        self.pack.read_vectored_at(offset, buffers, wait)
    }
}

impl AppendPack for Growing {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.faults.meet(Call::Write, self.id)?;
        self.pack.write_at(offset, bytes)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.pack.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.pack.sync()
    }
    fn seal(&self) -> io::Result<()> {
        self.faults.meet(Call::Seal, self.id)?;
        self.pack.seal()
    }
}

type Refusal = dyn Fn(&Batch) -> bool + Send + Sync;

/// An index that many stores may use, and that can be out of reach.
pub struct Shaky {
    index: SledIndex,
    refusal: Mutex<Option<Arc<Refusal>>>,
}

impl Shaky {
    pub fn open(dir: &Path) -> Arc<Self> {
        let index = SledIndex::open(dir).unwrap();
        Arc::new(Self { index, refusal: Mutex::default() })
    }

    /// From now on these batches do not come through.
    pub fn refuse(&self, which: impl Fn(&Batch) -> bool + Send + Sync + 'static) {
        *self.refusal.lock().unwrap() = Some(Arc::new(which));
    }

    pub fn mend(&self) {
        *self.refusal.lock().unwrap() = None;
    }
}

impl Index for Shaky {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        self.index.get_many(keys)
    }
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError> {
        self.index.scan(prefix, after, limit)
    }
    fn apply(&self, batch: &Batch) -> Result<(), IndexError> {
        let refusal = self.refusal.lock().unwrap().clone();
        if refusal.is_some_and(|refusal| refusal(batch)) {
            return Err(IndexError::Unavailable { engine: "test", source: "out of reach".into() });
        }
        self.index.apply(batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        self.index.flush()
    }
}

/// Whether a batch changes a key that starts so.
pub fn changes(batch: &Batch, prefix: &[u8]) -> bool {
    batch.change.iter().any(|(key, _)| key.starts_with(prefix))
}

/// A store whose packs and index are such places.
pub fn open(
    dir: &Path,
    packs: &Arc<Folder>,
    index: &Arc<Shaky>,
    clock: impl Into<Clock>,
    pack_target: u64,
) -> Arc<Store> {
    let mut progress = |_| {};
    let options = Options {
        pack_target,
        packs: Some(packs.clone()),
        index: Some(index.clone()),
        clock: clock.into(),
        ..Options::new(&mut progress)
    };
    Store::open(dir, options).unwrap()
}
