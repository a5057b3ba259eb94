//! Opening a store: recovering packs, deciding whether to believe the index, replaying.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Store, StoreError, TREE_CACHE, TreeWeight};
use crate::bytes::{LocalPacks, PackBackend, ReadPack};
use crate::copy::refuse_unfinished;
use crate::durable::write_file;
use crate::facts::{self, Facts, ReplayError};
use crate::index::{Index, SledIndex};
use crate::locations::Locations;
use crate::log::{Leftover, Log};
use crate::pack::format::TRAILER_LEN;
use crate::pack::{
    Footer, FrameDecoder, HEADER_LEN, Kind, PackError, PackId, ROW_LEN, RecordHeader, Row, recover,
};
use crate::packs::Packs;
use crate::workers::Workers;

/// Stored bytes at which a pack is sealed. Large enough that packs stay few (some 2500 per TB of
/// files), small enough that rewriting one is quick.
const PACK_TARGET: u64 = 128 * 1024 * 1024;

/// How far opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenProgress {
    /// The index is being remade: so many of so many packs are read.
    Rebuilding {
        /// Packs read.
        done: u64,
        /// Packs in all.
        total: u64,
    },
    /// Facts are being replayed: so many of so many.
    Replaying {
        /// Facts replayed.
        done: u64,
        /// Facts in all.
        total: u64,
    },
}

/// How to open a store.
pub struct Options<'a> {
    /// Stored bytes at which a pack is sealed.
    pub pack_target: u64,
    /// Threads that hash and compress; 0 for one per core.
    pub threads: usize,
    /// Told how far opening has come, where it takes long.
    pub progress: &'a mut dyn FnMut(OpenProgress),
}

impl Options<'_> {
    /// The usual options, with somebody to tell how it goes.
    pub fn new(progress: &mut dyn FnMut(OpenProgress)) -> Options<'_> {
        Options { pack_target: PACK_TARGET, threads: 0, progress }
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File { what, path: path.to_owned(), source }
}

/// The kernel's name for the time since the machine was last started.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn mark_closed(mark: &Path) -> io::Result<()> {
    write_file(mark, b"closed\n", 0o644)
}

/// Whether what lies in the index folder can be built on. It cannot after a loss of power: sled
/// asks the kernel to start writing, not to finish.
fn index_is_sound(mark: &Path) -> bool {
    match fs::read_to_string(mark) {
        Ok(text) => text.trim() == "closed" || text.trim() == format!("open {}", boot_id()),
        Err(_) => false,
    }
}

/// A sealed pack whose footer has been read, or only its last frame.
struct Sealed {
    id: PackId,
    slot: u32,
    footer: Footer,
}

/// A record of facts to replay.
struct FactAt {
    slot: u32,
    row: Row,
}

impl Store {
    /// Opens the store in `dir`, or makes it. After a crash it recovers by itself.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Arc<Self>, StoreError> {
        fs::create_dir_all(dir).map_err(at("cannot make", dir))?;
        let lock = lock(dir)?;
        let pack_dir = dir.join("packs");
        let backend = LocalPacks::open(&pack_dir).map_err(at("cannot open", &pack_dir))?;
        let backend: Arc<dyn PackBackend> = Arc::new(backend);
        refuse_unfinished(&*backend)?;
        let packs = Arc::new(Packs::new(backend.clone()));
        let (sealed, mut leftovers) = find_packs(&*backend, &packs)?;

        let index_dir = dir.join("index");
        let mark = index_dir.join("boot");
        let index = open_index(&index_dir, &mark)?;
        let applied = facts::applied(&*index)?;

        let places = index_dir.join("locations");
        let locations = Locations::open(&places, packs.clone()).map_err(at("cannot open", &places));
        let locations = Arc::new(locations?);
        let mut replay = Vec::new();
        let progress = options.progress;
        load_footers(&packs, &locations, &sealed, applied, &mut replay, progress)?;
        for leftover in &leftovers {
            locations.add_recent(leftover.slot, &leftover.rows);
            let facts = leftover.rows.iter().filter(|row| row.kind == Kind::Facts);
            replay.extend(facts.map(|row| FactAt { slot: leftover.slot, row: *row }));
        }
        let last = replay_facts(&packs, &*index, applied, &replay, progress)?;
        for leftover in &mut leftovers {
            leftover.last_sequence = last;
        }
        let log =
            Log::open(backend, packs.clone(), locations.clone(), options.pack_target, leftovers)?;
        let log = Arc::new(log);
        let facts = Facts::open(index.clone(), log.clone())?;
        Ok(Arc::new(Self {
            facts,
            index,
            locations,
            log,
            packs,
            trees: quick_cache::sync::Cache::with_weighter(1024, TREE_CACHE, TreeWeight),
            workers: Workers::start(options.threads)?,
            boot_mark: mark,
            _lock: lock,
        }))
    }
}

/// Keeps other processes from opening the store in `dir`, for as long as the file is held.
pub fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let options = File::options().create(true).truncate(false).write(true).to_owned();
    let file = options.open(&path).map_err(at("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(at("cannot lock", &path)(source)),
    }
}

/// Opens the index, or makes a new one where there is none to believe.
fn open_index(dir: &Path, mark: &Path) -> Result<Arc<dyn Index>, StoreError> {
    let engine = dir.join("sled");
    let mut index = None;
    if engine.exists() && index_is_sound(mark) {
        match SledIndex::open(&engine) {
            Ok(opened) => index = Some(opened),
            Err(error) => tracing::warn!(%error, "the index does not open; remaking it"),
        }
    }
    let index = match index {
        Some(index) => index,
        None => {
            if dir.exists() {
                fs::remove_dir_all(dir).map_err(at("cannot remove", dir))?;
            }
            fs::create_dir_all(dir).map_err(at("cannot make", dir))?;
            SledIndex::open(&engine)?
        }
    };
    let state = format!("open {}\n", boot_id());
    write_file(mark, state.as_bytes(), 0o644).map_err(at("cannot write", mark))?;
    Ok(Arc::new(index))
}

fn io_in(pack: PackId) -> impl Fn(io::Error) -> PackError {
    move |source| PackError::Io { pack, source }
}

fn damaged(pack: PackId, offset: u64, what: &'static str) -> PackError {
    PackError::Damaged { pack, offset, what }
}

/// Gives every pack a slot; cuts the torn tail off unsealed ones.
fn find_packs(
    backend: &dyn PackBackend,
    packs: &Packs,
) -> Result<(Vec<Sealed>, Vec<Leftover>), StoreError> {
    let (mut sealed, mut leftovers) = (Vec::new(), Vec::new());
    for listed in backend.list()? {
        let id = listed.id;
        let pack = backend.open(id, listed.sealed).map_err(io_in(id))?;
        let len = pack.len().map_err(io_in(id))?;
        if listed.sealed {
            let footer = read_footer(id, &*pack, len)?;
            sealed.push(Sealed { id, slot: packs.add(id, true, None), footer });
            continue;
        }
        let found = recover(id, len, |offset, buffer| pack.read_at(offset, buffer));
        let Some(found) = found.map_err(io_in(id))? else {
            // Not even its start was written: it never held anything.
            backend.discard(id).map_err(io_in(id))?;
            continue;
        };
        if found.end < len && !found.sealed {
            let torn = len - found.end;
            tracing::warn!(pack = %id, bytes = torn, "cutting off an unfinished write");
        }
        let pack = backend.reopen(id, found.end).map_err(io_in(id))?;
        // The records may never have been synced, and are about to be built on.
        pack.sync().map_err(io_in(id))?;
        let slot = packs.add(id, false, Some(pack.clone()));
        let (end, rows) = (found.end, found.rows);
        leftovers.push(Leftover { slot, pack, end, rows, last_sequence: 0 });
    }
    leftovers.sort_by_key(|leftover| std::cmp::Reverse(leftover.end));
    Ok((sealed, leftovers))
}

fn read_footer(id: PackId, pack: &dyn ReadPack, len: u64) -> Result<Footer, PackError> {
    let mut trailer = [0; TRAILER_LEN];
    let at = len.checked_sub(TRAILER_LEN as u64);
    let at = at.ok_or_else(|| damaged(id, 0, "it is too short to be a sealed pack"))?;
    pack.read_at(at, &mut trailer).map_err(io_in(id))?;
    Footer::parse(&trailer, len).ok_or_else(|| damaged(id, at, "its footer is not whole"))
}

fn footer_rows(packs: &Packs, pack: &Sealed) -> Result<Vec<Row>, PackError> {
    let mut bytes = vec![0; pack.footer.rows as usize * ROW_LEN];
    let reader = packs.get(pack.slot).map_err(io_in(pack.id))?;
    reader.read_at(pack.footer.rows_at, &mut bytes).map_err(io_in(pack.id))?;
    if !pack.footer.matches(&bytes) {
        return Err(damaged(
            pack.id,
            pack.footer.rows_at,
            "its footer does not match its checksum",
        ));
    }
    let rows = bytes.chunks_exact(ROW_LEN).map(Row::parse).collect::<Option<Vec<Row>>>();
    rows.ok_or_else(|| damaged(pack.id, pack.footer.rows_at, "its footer has an unknown kind"))
}

/// Reads the footers that no segment covers yet, and finds the facts the index has not seen.
fn load_footers(
    packs: &Packs,
    locations: &Locations,
    sealed: &[Sealed],
    applied: u64,
    replay: &mut Vec<FactAt>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<(), StoreError> {
    let covered = locations.covered();
    let news = |pack: &Sealed| pack.footer.facts > 0 && pack.footer.last_sequence > applied;
    let wanted: Vec<&Sealed> =
        sealed.iter().filter(|pack| !covered.contains(&pack.slot) || news(pack)).collect();
    let total = wanted.len() as u64;
    for (done, pack) in (1..).zip(wanted) {
        let rows = footer_rows(packs, pack)?;
        if news(pack) {
            let facts = rows.iter().filter(|row| row.kind == Kind::Facts);
            replay.extend(facts.map(|row| FactAt { slot: pack.slot, row: *row }));
        }
        if !covered.contains(&pack.slot) {
            locations.add_footer(pack.slot, pack.footer.rows_at, &rows)?;
        }
        progress(OpenProgress::Rebuilding { done, total });
    }
    Ok(())
}

/// Replays what the index has not seen, in order; returns the last sequence number there is.
fn replay_facts(
    packs: &Packs,
    index: &dyn Index,
    applied: u64,
    facts: &[FactAt],
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<u64, StoreError> {
    let mut decoder = FrameDecoder::new()?;
    let mut read = |fact: &FactAt| -> Result<Vec<u8>, StoreError> {
        let id = packs.id_of(fact.slot)?;
        let mut record = vec![0; HEADER_LEN + fact.row.stored as usize];
        let reader = packs.get(fact.slot).map_err(io_in(id))?;
        reader.read_at(fact.row.offset, &mut record).map_err(io_in(id))?;
        let header = RecordHeader::parse(&record);
        let sound = |h: &RecordHeader| h.expected_checksum(&record[HEADER_LEN..]) == h.checksum;
        if !header.as_ref().is_some_and(sound) {
            return Err(damaged(id, fact.row.offset, "a record of facts is not whole").into());
        }
        let mut plain = Vec::new();
        decoder.append(&mut plain, &record[HEADER_LEN..], fact.row.plain as usize)?;
        Ok(plain)
    };
    let broken = |error: ReplayError| match error {
        ReplayError::Index(error) => StoreError::Index(error),
        error => StoreError::Io(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    // First only the numbers: the facts of a large store do not fit into memory together.
    let mut order = Vec::with_capacity(facts.len());
    for (at, fact) in facts.iter().enumerate() {
        let sequence = facts::sequence_of(&read(fact)?).map_err(broken)?;
        if sequence > applied {
            order.push((sequence, at));
        }
    }
    order.sort_unstable();
    let total = order.len() as u64;
    for (done, (_, at)) in (1..).zip(&order) {
        facts::replay(index, &read(&facts[*at])?).map_err(broken)?;
        progress(OpenProgress::Replaying { done, total });
    }
    Ok(order.last().map_or(applied, |(sequence, _)| *sequence))
}
