//! The log: the pack that grows, and the ones being sealed behind it.
//!
//! Runs of records are appended whole. A record is known to readers once it is appended; it is
//! durable once [`Log::sync`] returned. A pack that reached its target size is sealed by a thread
//! of its own while the next one grows. Where packs are durable only when they are sealed
//! ([`Durability::Sealed`]), syncing means to seal what has grown so far, however little it is.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Digest;
use crate::bytes::{AppendPack, Durability, PackBackend};
use crate::locations::Locations;
use crate::pack::format::{START_LEN, start};
use crate::pack::{FrameEncoder, HEADER_LEN, Kind, PackId, Row, whole};
use crate::packs::Packs;
use crate::registry::{Entry, Registry};

/// Packs that may wait to be sealed before appending has to wait as well.
const MAX_SEALING: usize = 2;
/// How often a full queue to the sealer is looked at again.
const SEALER_POLL: Duration = Duration::from_millis(20);
/// How long a pack that could not be sealed (a full disk) waits for the next try.
const SEAL_AGAIN: Duration = Duration::from_secs(2);

/// Records to append, one after the other. Offsets in `rows` are relative to `bytes`.
#[derive(Default)]
pub struct Run {
    /// Headers and data frames.
    pub bytes: Vec<u8>,
    /// One row per record, in order.
    pub rows: Vec<Row>,
}

impl Run {
    /// Adds a record.
    pub fn add(
        &mut self,
        encoder: &mut FrameEncoder,
        kind: Kind,
        digest: Digest,
        plain: &[u8],
    ) -> io::Result<()> {
        let offset = self.bytes.len() as u64;
        let length = u32::try_from(plain.len()).map_err(io::Error::other)?;
        let stored = encoder.append(&mut self.bytes, kind, digest, plain)?.stored;
        self.rows.push(Row { digest, kind, pack: 0, offset, stored, plain: length });
        Ok(())
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }
}

struct Current {
    slot: u32,
    pack: Arc<dyn AppendPack>,
    end: u64,
    rows: Vec<Row>,
    last_sequence: u64,
    /// Its length with its footer, once it is sealed: making it known may fail after that, and be tried
    /// again.
    sealed: Option<u64>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    /// A write or sync failed in a way that leaves the disk in an unknown state.
    broken: Option<String>,
}

struct Shared {
    packs: Arc<Packs>,
    locations: Arc<Locations>,
    /// Where sealed packs are made known to others, if there are any.
    registry: Option<Arc<Registry>>,
    sealing: Mutex<Sealing>,
    /// Wakes who waits for a pack to be sealed.
    progress: Condvar,
    closing: AtomicBool,
}

/// How the packs fare that are sealed in the background.
#[derive(Default)]
struct Sealing {
    /// Those that may not be durable yet.
    unsynced: Vec<(u32, Arc<dyn AppendPack>)>,
    /// Why it does not get on at the moment. Appending fails meanwhile.
    stuck: Option<Arc<io::Error>>,
    /// How often it failed so far.
    failures: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Appends to packs.
pub struct Log {
    backend: Arc<dyn PackBackend>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    target: u64,
    durability: Durability,
    sealer: Option<(SyncSender<Current>, JoinHandle<()>)>,
}

/// An unsealed pack that an earlier run of the program left, cut to its whole records.
pub struct Leftover {
    /// Its slot.
    pub slot: u32,
    /// The handle to append with.
    pub pack: Arc<dyn AppendPack>,
    /// Where its records end.
    pub end: u64,
    /// Its records.
    pub rows: Vec<Row>,
    /// The highest sequence number among its facts.
    pub last_sequence: u64,
}

impl Log {
    /// A log over `packs`, going on with what an earlier run left. Leftovers that are too many are
    /// sealed.
    pub fn open(
        backend: Arc<dyn PackBackend>,
        packs: Arc<Packs>,
        locations: Arc<Locations>,
        registry: Option<Arc<Registry>>,
        target: u64,
        leftovers: Vec<Leftover>,
    ) -> io::Result<Self> {
        let durability = backend.durability();
        let shared = Arc::new(Shared {
            packs,
            locations,
            registry,
            sealing: Mutex::default(),
            progress: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let (sender, receiver) = sync_channel(MAX_SEALING);
        let worker = std::thread::Builder::new().name("seal".into()).spawn({
            let shared = shared.clone();
            move || shared.seal_all(&receiver)
        })?;
        let sealer = Some((sender, worker));
        let state = Mutex::default();
        let log = Self { backend, shared, state, target, durability, sealer };
        {
            let mut state = lock(&log.state);
            for leftover in leftovers {
                let next = Current {
                    slot: leftover.slot,
                    pack: leftover.pack,
                    end: leftover.end,
                    rows: leftover.rows,
                    last_sequence: leftover.last_sequence,
                    sealed: None,
                };
                log.retire(&mut state)?;
                state.current = Some(next);
            }
        }
        Ok(log)
    }

    /// Hands the current pack to the sealer, once it has room.
    fn retire(&self, state: &mut State) -> io::Result<()> {
        let (Some(mut current), Some((sealer, _))) = (state.current.take(), &self.sealer) else {
            return Ok(());
        };
        lock(&self.shared.sealing).unsynced.push((current.slot, current.pack.clone()));
        loop {
            match sealer.try_send(current) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => current = back,
            }
            let mut sealing = lock(&self.shared.sealing);
            if let Some(reason) = sealing.stuck.clone() {
                sealing.unsynced.retain(|(unsynced, _)| *unsynced != current.slot);
                state.current = Some(current);
                return Err(stuck(&reason));
            }
            drop(sealing);
            std::thread::sleep(SEALER_POLL);
        }
    }

    fn current<'a>(&self, state: &'a mut State, room: usize) -> io::Result<&'a mut Current> {
        if let Some(reason) = &state.broken {
            let hint = "writing is refused until the server is restarted";
            return Err(io::Error::other(format!("an earlier write failed ({reason}); {hint}")));
        }
        let full = |c: &Current| c.end > START_LEN as u64 && c.end + room as u64 > self.target;
        if state.current.as_ref().is_some_and(full) {
            self.retire(state)?;
        }
        if state.current.is_none() {
            let id = PackId::random()?;
            let pack = self.backend.create(id)?;
            if let Err(error) = pack.write_at(0, &start(id)) {
                let _ = self.backend.discard(id);
                return Err(error);
            }
            let slot = self.shared.packs.add(id, false, Some(pack.clone()));
            state.current = Some(Current {
                slot,
                pack,
                end: START_LEN as u64,
                rows: Vec::new(),
                last_sequence: 0,
                sealed: None,
            });
        }
        state.current.as_mut().ok_or_else(|| io::Error::other("no pack to append to"))
    }

    /// Stored bytes at which a pack is sealed.
    pub fn target(&self) -> u64 {
        self.target
    }

    /// Appends a run. Records that are already stored where they stay, by another upload meanwhile, are
    /// left out. Returns the pack that it went to, unless all was left out.
    pub fn append(&self, run: &Run) -> io::Result<Option<PackId>> {
        self.append_with(run, 0)
    }

    /// Appends facts whose highest sequence number is given.
    pub fn append_facts(&self, run: &Run, last_sequence: u64) -> io::Result<Option<PackId>> {
        self.append_with(run, last_sequence)
    }

    fn append_with(&self, run: &Run, last_sequence: u64) -> io::Result<Option<PackId>> {
        // Before the lock, which all that write want: this may read from disk.
        let mut known = Vec::with_capacity(run.rows.len());
        for row in &run.rows {
            known.push(self.shared.locations.kept(&row.digest, row.kind)?.is_some());
        }
        self.append_unless(known, run, last_sequence)
    }

    /// Appends a run of records of which just now none was there where it stays.
    pub fn append_missing(&self, run: &Run, last_sequence: u64) -> io::Result<Option<PackId>> {
        self.append_unless(vec![false; run.rows.len()], run, last_sequence)
    }

    /// Appends what is neither `known` nor has come meanwhile. What came and was sealed meanwhile is
    /// stored twice, which does no harm.
    fn append_unless(
        &self,
        mut known: Vec<bool>,
        run: &Run,
        last_sequence: u64,
    ) -> io::Result<Option<PackId>> {
        let mut state = lock(&self.state);
        for (row, known) in run.rows.iter().zip(&mut known) {
            *known = *known || self.shared.locations.kept_recently(&row.digest, row.kind).is_some();
        }
        let deduplicated;
        let run = if known.contains(&true) {
            deduplicated = without(run, &known);
            &deduplicated
        } else {
            run
        };
        if run.rows.is_empty() {
            return Ok(None);
        }
        let current = self.current(&mut state, run.bytes.len())?;
        if let Err(error) = current.pack.write_at(current.end, &run.bytes) {
            let undone = current.pack.truncate(current.end);
            if undone.is_err() {
                state.broken = Some(error.to_string());
            }
            return Err(error);
        }
        let first = current.rows.len();
        let base = current.end;
        current.rows.extend(run.rows.iter().map(|row| Row { offset: base + row.offset, ..*row }));
        current.end += run.bytes.len() as u64;
        current.last_sequence = current.last_sequence.max(last_sequence);
        self.shared.locations.add_recent(current.slot, &current.rows[first..]);
        self.shared.packs.id_of(current.slot).map(Some)
    }

    /// Returns once everything appended before is durable, and known to others where there are any.
    pub fn sync(&self) -> io::Result<()> {
        match self.durability {
            Durability::Synced => self.sync_appended(),
            Durability::Sealed => self.seal_appended(),
        }
    }

    /// Seals the pack that grows, if it holds anything.
    pub fn seal_appended(&self) -> io::Result<()> {
        let slots: Vec<u32> = {
            let mut state = lock(&self.state);
            self.retire(&mut state)?;
            lock(&self.shared.sealing).unsynced.iter().map(|(slot, _)| *slot).collect()
        };
        let mut sealing = lock(&self.shared.sealing);
        let before = sealing.failures;
        while sealing.unsynced.iter().any(|(slot, _)| slots.contains(slot)) {
            if let Some(reason) = sealing.stuck.clone().filter(|_| sealing.failures > before) {
                return Err(stuck(&reason));
            }
            let woken = self.shared.progress.wait(sealing);
            sealing = woken.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn sync_appended(&self) -> io::Result<()> {
        let packs: Vec<Arc<dyn AppendPack>> = {
            let state = lock(&self.state);
            let current = state.current.iter().map(|current| current.pack.clone());
            lock(&self.shared.sealing)
                .unsynced
                .iter()
                .map(|(_, pack)| pack.clone())
                .chain(current)
                .collect()
        };
        for pack in packs {
            if let Err(error) = pack.sync() {
                // After a failed fsync the kernel may have dropped the very pages it could not
                // write; a second fsync that succeeds would prove nothing.
                lock(&self.state).broken = Some(format!("fsync: {error}"));
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some((sender, worker)) = self.sealer.take() {
            self.shared.closing.store(true, Ordering::Relaxed);
            drop(sender);
            let _ = worker.join();
        }
    }
}

/// The run without the records that are `known`.
fn without(run: &Run, known: &[bool]) -> Run {
    let mut kept = Run::default();
    for (row, _) in run.rows.iter().zip(known).filter(|(_, known)| !**known) {
        let from = row.offset as usize;
        let to = from + HEADER_LEN + row.stored as usize;
        kept.rows.push(Row { offset: kept.bytes.len() as u64, ..*row });
        kept.bytes.extend_from_slice(&run.bytes[from..to]);
    }
    kept
}

/// The error that a pack could not be sealed, for whom it keeps from going on.
fn stuck(reason: &io::Error) -> io::Error {
    io::Error::new(reason.kind(), format!("full packs cannot be sealed: {reason}"))
}

impl Shared {
    fn seal_all(&self, packs: &Receiver<Current>) {
        while let Ok(mut pack) = packs.recv() {
            while let Err(error) = self.seal(&mut pack) {
                tracing::error!(%error, "sealing a pack failed; trying again");
                let mut sealing = lock(&self.sealing);
                sealing.stuck = Some(Arc::new(error));
                sealing.failures += 1;
                drop(sealing);
                self.progress.notify_all();
                if self.closing.load(Ordering::Relaxed) {
                    return; // What was acknowledged is durable; a local pack goes on at the next start.
                }
                std::thread::sleep(SEAL_AGAIN);
            }
            let mut sealing = lock(&self.sealing);
            sealing.stuck = None;
            sealing.unsynced.retain(|(unsynced, _)| *unsynced != pack.slot);
            drop(sealing);
            self.progress.notify_all();
        }
    }

    fn seal(&self, pack: &mut Current) -> io::Result<()> {
        let id = self.packs.id_of(pack.slot)?;
        let len = match pack.sealed {
            Some(len) => {
                self.store_again(id, &*pack.pack, len)?;
                len
            }
            None => {
                let footer = whole::footer(pack.end, &mut pack.rows, pack.last_sequence)?;
                pack.pack.write_at(pack.end, &footer)?;
                pack.pack.seal()?;
                *pack.sealed.insert(pack.end + footer.len() as u64)
            }
        };
        let (rows_at, rows) = (pack.end + 8, pack.rows.len() as u64);
        if let Some(registry) = &self.registry {
            registry.add(&Entry { id, len, rows_at, rows }).map_err(io::Error::from)?;
        }
        self.packs.sealed(pack.slot);
        self.locations.add_footer(pack.slot, rows_at, &pack.rows);
        Ok(())
    }

    /// A pack that could not be registered when it was stored may have been removed since, as nobody's. It
    /// is stored again then, for as long as its bytes are at hand. Later it must not be registered any more.
    fn store_again(&self, id: PackId, pack: &dyn AppendPack, len: u64) -> io::Result<()> {
        let backend = self.packs.backend();
        if self.registry.is_none() || backend.stat(id)?.is_some() {
            return Ok(());
        }
        tracing::warn!(pack = %id, "a pack was removed before it could be registered; storing it again");
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        pack.read_at(0, &mut bytes)?;
        backend.put(id, bytes)
    }
}
