//! Opening a store: deciding whether to believe the index, recovering packs, replaying.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Store, StoreError, TREE_CACHE, TreeWeight, appended, objects, owner};
use crate::Clock;
use crate::bytes::{Durability, LocalPacks, PackBackend};
use crate::copy::refuse_unfinished;
use crate::durable::write_file;
use crate::facts::{Facts, Journal};
use crate::gc::lease::Leases;
use crate::index::{Index, SledIndex};
use crate::log::Log;
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
    /// Where packs lie, if not in the store's folder.
    pub packs: Option<Arc<dyn PackBackend>>,
    /// The index, if it is not an embedded one in the store's folder.
    pub index: Option<Arc<dyn Index>>,
    /// Whether the index is to be made anew from the packs. If these belonged to another index, they
    /// belong to this one then.
    pub rebuild: bool,
    /// By which it is decided what has waited long enough: the system's, if not a test's.
    pub clock: Clock,
    /// Told how far opening has come, where it takes long.
    pub progress: &'a mut dyn FnMut(OpenProgress),
}

impl Options<'_> {
    /// The usual options, with somebody to tell how it goes.
    pub fn new(progress: &mut dyn FnMut(OpenProgress)) -> Options<'_> {
        Options {
            pack_target: PACK_TARGET,
            threads: 0,
            packs: None,
            index: None,
            rebuild: false,
            clock: Clock::default(),
            progress,
        }
    }
}

pub(super) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
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

impl Store {
    /// Opens the store in `dir`, or makes it. After a crash it recovers by itself.
    pub fn open(dir: &Path, options: Options<'_>) -> Result<Arc<Self>, StoreError> {
        let Options { pack_target, threads, packs, index: elsewhere, rebuild, clock, progress } =
            options;
        fs::create_dir_all(dir).map_err(at("cannot make", dir))?;
        let lock = lock(dir)?;
        let backend: Arc<dyn PackBackend> = match packs {
            Some(backend) => backend,
            None => {
                let dir = dir.join("packs");
                Arc::new(LocalPacks::open(&dir).map_err(at("cannot open", &dir))?)
            }
        };
        refuse_unfinished(&*backend)?;
        let index_dir = dir.join("index");
        if rebuild {
            forget_index(&index_dir, elsewhere.as_deref())?;
        }
        owner::claim(dir, &*backend, elsewhere.as_deref(), rebuild)?;
        let (index, boot_mark) = match elsewhere {
            Some(index) => (index, None),
            None => {
                let mark = index_dir.join("boot");
                (open_index(&index_dir, &mark)?, Some(mark))
            }
        };
        let packs = Arc::new(Packs::new(backend.clone()));
        let places = index_dir.join("locations");
        let (locations, registry, leftovers, journal) = match backend.durability() {
            Durability::Synced => {
                let opened = appended::open(&packs, &*index, &places, progress)?;
                (opened.locations, None, opened.leftovers, Journal::Log)
            }
            Durability::Sealed => {
                let opened = objects::open(&packs, &index, &places, progress)?;
                let journal = Journal::Packs(backend.clone());
                (opened.locations, Some(opened.registry), Vec::new(), journal)
            }
        };
        let log = Log::open(
            backend,
            packs.clone(),
            locations.clone(),
            registry.clone(),
            pack_target,
            leftovers,
        )?;
        let log = Arc::new(log);
        let facts = Facts::open(index.clone(), log.clone(), journal)?;
        let leases = Arc::new(Leases::open(index.clone(), clock.clone())?);
        let store = Arc::new(Self {
            facts,
            index,
            locations,
            log,
            packs,
            registry,
            flushes: Default::default(),
            condemned: Default::default(),
            leases,
            clock,
            trees: quick_cache::sync::Cache::with_weighter(1024, TREE_CACHE, TreeWeight),
            workers: Workers::start(threads)?,
            boot_mark,
            _lock: lock,
        });
        store.refresh_epoch()?;
        store.load_damaged()?;
        store.recheck_unsealed()?;
        store.listen();
        Ok(store)
    }
}

/// Removes what the index holds, so that it is made anew.
fn forget_index(dir: &Path, elsewhere: Option<&dyn Index>) -> Result<(), StoreError> {
    if let Some(index) = elsewhere {
        if let Some(shared) = index.shared()
            && !shared.others()?.is_empty()
        {
            return Err(StoreError::InUse);
        }
        index.clear()?;
    }
    remove_dir(dir)
}

fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(at("cannot remove", dir)(error))
        }
        _ => Ok(()),
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
            remove_dir(dir)?;
            fs::create_dir_all(dir).map_err(at("cannot make", dir))?;
            SledIndex::open(&engine)?
        }
    };
    let state = format!("open {}\n", boot_id());
    write_file(mark, state.as_bytes(), 0o644).map_err(at("cannot write", mark))?;
    Ok(Arc::new(index))
}
