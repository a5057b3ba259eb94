//! When paths were last used.
//!
//! A use is a narinfo that somebody was told, through whichever door, or a pusher who was told that a
//! path need not be pushed. Whoever fetches a NAR has read the narinfo before.
//!
//! Uses are noted in memory, and written to the index once a minute, when there are many, before
//! retention is planned, and when the storehouse is closed: never for each reader. They are kept in the
//! index only:
//!
//! ```text
//! used/<cache><hash part>    seconds since 1970, in 8 big-endian bytes
//! used-since                 the same; what was used before then is not known
//! ```
//!
//! An index that was remade has lost all of them. So a path counts as used at `used-since`, which is
//! set when it is not there. A server that is killed loses what it noted in the last minute. Where
//! several servers write to one index, the later time stays.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use castore::{Store, StoreError};
use nix_compat::store_path::StorePathHash;

use crate::records::{USED_SINCE, used_key};

/// How long a use stays in memory only: that much a kill can lose.
const FLUSH_EVERY: Duration = Duration::from_secs(60);
/// So many uses are written before that.
const FLUSH_AT: usize = 50_000;
/// Readers of different paths should not wait for each other.
const SHARDS: usize = 16;
/// The most uses that a shard holds while the index does not take them, some 2 MB. What is beyond that is
/// lost, and everything counts as used then.
const SHARD_LIMIT: usize = 25_000;

type Shard = HashMap<(u32, StorePathHash), u64>;

/// The uses of all paths of a storehouse.
pub(crate) struct Accesses {
    store: Arc<Store>,
    shards: [Mutex<Shard>; SHARDS],
    /// How many the shards hold.
    noted: AtomicUsize,
    /// Whether a use could not be held.
    lost: AtomicBool,
    /// Held by who writes.
    writing: Mutex<()>,
    /// Held by many who tell pushers which paths are there, or publish what refers to them, and note that;
    /// and by one who removes those that nobody was told of.
    pub(crate) deciding: RwLock<()>,
    bell: Mutex<Bell>,
    rung: Condvar,
}

#[derive(Default)]
struct Bell {
    /// Whether there is more than can wait.
    full: bool,
    /// Whether the storehouse is closed.
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Accesses {
    fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let accesses = Self {
            store,
            shards: Default::default(),
            noted: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            writing: Mutex::default(),
            deciding: RwLock::default(),
            bell: Mutex::default(),
            rung: Condvar::new(),
        };
        if accesses.store.derived(USED_SINCE)?.is_none() {
            accesses.forgive_all()?;
        }
        Ok(accesses)
    }

    /// Notes that a path is used now. Does not block on the index.
    pub(crate) fn note(&self, cache: u32, hash: StorePathHash) {
        self.note_at(cache, hash, self.store.now());
    }

    /// Notes that somebody builds on these paths from now on. Where other servers may remove them, it is
    /// written at once. May block.
    pub(crate) fn note_relied_on(
        &self,
        cache: u32,
        paths: &[StorePathHash],
    ) -> Result<(), StoreError> {
        let now = self.store.now();
        paths.iter().for_each(|path| self.note_at(cache, *path, now));
        if !self.store.is_shared() {
            return Ok(());
        }
        let noted: Vec<_> = paths.iter().map(|path| ((cache, *path), now)).collect();
        self.write(&noted)
    }

    fn note_at(&self, cache: u32, hash: StorePathHash, time: u64) {
        let mut shard = lock(self.shard(hash));
        let held = shard.len();
        match shard.entry((cache, hash)) {
            Entry::Occupied(mut entry) => {
                let last = entry.get_mut();
                *last = time.max(*last);
                return;
            }
            Entry::Vacant(_) if held >= SHARD_LIMIT => {
                self.lost.store(true, Ordering::Release);
                return;
            }
            Entry::Vacant(entry) => entry.insert(time),
        };
        drop(shard);
        if self.noted.fetch_add(1, Ordering::Relaxed) + 1 == FLUSH_AT {
            lock(&self.bell).full = true;
            self.rung.notify_all();
        }
    }

    fn shard(&self, hash: StorePathHash) -> &Mutex<Shard> {
        &self.shards[usize::from(hash.as_bytes()[0]) % SHARDS]
    }

    /// Writes what was noted to the index. Blocks.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        if self.lost.swap(false, Ordering::AcqRel) {
            self.forgive_all().inspect_err(|_| self.lost.store(true, Ordering::Release))?;
            tracing::warn!("more paths were used than could be noted: all count as used now");
        }
        for shard in &self.shards {
            // What is noted stays in memory until it is written, so that who asks finds it in one place
            // or the other.
            let noted: Vec<_> = lock(shard).iter().map(|(path, time)| (*path, *time)).collect();
            self.write(&noted)?;
            let mut shard = lock(shard);
            for (path, time) in noted {
                if shard.get(&path) == Some(&time) {
                    shard.remove(&path);
                    self.noted.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Writes the times that are later than what the index has.
    fn write(&self, noted: &[((u32, StorePathHash), u64)]) -> Result<(), StoreError> {
        if noted.is_empty() {
            return Ok(());
        }
        let keys: Vec<Vec<u8>> =
            noted.iter().map(|((cache, hash), _)| used_key(*cache, *hash)).collect();
        let before = self.store.derived_all(&keys)?;
        let times = noted.iter().map(|(_, time)| *time);
        let values: Vec<_> = keys
            .into_iter()
            .zip(times)
            .zip(before)
            .filter(|((_, time), before)| before.as_deref().and_then(seconds) < Some(*time))
            .map(|((key, time), _)| (key, time.to_be_bytes().to_vec()))
            .collect();
        self.store.remember_all(&values)
    }

    /// When a path was last used, if that is known; uses that other servers have not written yet are
    /// not. Blocks.
    pub(crate) fn last(&self, cache: u32, hash: StorePathHash) -> Result<Option<u64>, StoreError> {
        let noted = lock(self.shard(hash)).get(&(cache, hash)).copied();
        let written = self.store.derived(&used_key(cache, hash))?;
        Ok(noted.max(written.as_deref().and_then(seconds)))
    }

    /// What was used before that is not known, and counts as used then.
    pub(crate) fn since(&self) -> Result<u64, StoreError> {
        let known = self.store.derived(USED_SINCE)?;
        Ok(known.as_deref().and_then(seconds).unwrap_or_else(|| self.store.now()))
    }

    /// Makes everything count as used now.
    fn forgive_all(&self) -> Result<(), StoreError> {
        self.store.remember(USED_SINCE, &self.store.now().to_be_bytes())
    }

    /// Writes every now and then until the storehouse is closed.
    fn keep_writing(&self) {
        let mut failing = false;
        loop {
            let bell = lock(&self.bell);
            let quiet = |bell: &mut Bell| !bell.full && !bell.closed;
            let waited = self.rung.wait_timeout_while(bell, FLUSH_EVERY, quiet);
            let (mut bell, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if bell.closed {
                return;
            }
            bell.full = false;
            drop(bell);
            match self.flush() {
                Ok(()) => failing = false,
                // Once is enough to say it.
                Err(error) if !failing => {
                    tracing::warn!(%error, "which paths were used cannot be written yet");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// Seconds as they are written.
pub(crate) fn seconds(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// The accesses and the thread that writes them. Writes what is left when it is dropped.
pub(crate) struct Keeper {
    accesses: Arc<Accesses>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts to note uses.
    pub(crate) fn start(store: Arc<Store>) -> Result<Self, StoreError> {
        let accesses = Arc::new(Accesses::open(store)?);
        let writer = accesses.clone();
        let thread = std::thread::Builder::new().name("accesses".to_owned());
        let thread = thread.spawn(move || writer.keep_writing());
        let thread = thread.map_err(|error| {
            let text = format!("a thread that notes which paths are used did not start: {error}");
            StoreError::Io(io::Error::new(error.kind(), text))
        })?;
        Ok(Self { accesses, thread: Some(thread) })
    }

    /// The accesses.
    pub(crate) fn accesses(&self) -> &Arc<Accesses> {
        &self.accesses
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.accesses.bell).closed = true;
        self.accesses.rung.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that notes which paths are used has panicked");
        }
        if let Err(error) = self.accesses.flush() {
            tracing::warn!(%error, "which paths were used in the last minute is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use castore::Options;

    use super::*;

    fn hash(number: u32) -> StorePathHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes.into()
    }

    fn open(dir: &tempfile::TempDir) -> Keeper {
        Keeper::start(Store::open(dir.path(), Options::new(&mut |_| ())).unwrap()).unwrap()
    }

    fn written(keeper: &Keeper, cache: u32, hash: StorePathHash) -> Option<u64> {
        let value = keeper.accesses.store.derived(&used_key(cache, hash)).unwrap();
        value.as_deref().and_then(seconds)
    }

    #[test]
    fn what_was_used_is_known_at_once_and_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = open(&dir);
        let accesses = keeper.accesses();
        accesses.note_at(1, hash(7), 100);
        accesses.note_at(1, hash(7), 90);
        assert_eq!(accesses.last(1, hash(7)).unwrap(), Some(100));
        assert_eq!(accesses.last(2, hash(7)).unwrap(), None, "of another cache");
        assert_eq!(written(&keeper, 1, hash(7)), None, "a use alone is not written");
        drop(keeper);

        let keeper = open(&dir);
        assert_eq!(written(&keeper, 1, hash(7)), Some(100));
        assert_eq!(keeper.accesses().last(1, hash(7)).unwrap(), Some(100));
    }

    #[test]
    fn the_later_time_stays() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = open(&dir);
        let accesses = keeper.accesses();
        // As another server wrote it.
        accesses.store.remember(&used_key(1, hash(1)), &500_u64.to_be_bytes()).unwrap();
        accesses.note_at(1, hash(1), 400);
        accesses.note_at(1, hash(2), 400);
        accesses.flush().unwrap();
        assert_eq!(
            (written(&keeper, 1, hash(1)), written(&keeper, 1, hash(2))),
            (Some(500), Some(400))
        );
        assert_eq!(accesses.noted.load(Ordering::Relaxed), 0, "nothing stays in memory");
        accesses.note_at(1, hash(1), 600);
        accesses.flush().unwrap();
        assert_eq!(written(&keeper, 1, hash(1)), Some(600));
    }

    #[test]
    fn since_when_uses_are_known_is_kept_until_the_index_is_remade() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = open(&dir);
        let store = keeper.accesses().store.clone();
        let first = keeper.accesses().since().unwrap();
        assert!(first.abs_diff(store.now()) < 60);
        store.remember(USED_SINCE, &7_u64.to_be_bytes()).unwrap();
        drop((store, keeper));
        let keeper = open(&dir);
        assert_eq!(keeper.accesses().since().unwrap(), 7);
        drop(keeper);
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        let keeper = open(&dir);
        assert!(keeper.accesses().since().unwrap() >= first);
    }

    #[test]
    fn many_uses_are_written_before_the_minute_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = open(&dir);
        (0..FLUSH_AT as u32).for_each(|number| keeper.accesses().note_at(1, hash(number), 9));
        let deadline = std::time::Instant::now() + FLUSH_EVERY / 2;
        while keeper.accesses().noted.load(Ordering::Relaxed) > 0 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(written(&keeper, 1, hash(49_999)), Some(9));
    }

    #[test]
    fn when_uses_are_lost_everything_counts_as_used() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = open(&dir);
        let accesses = keeper.accesses();
        accesses.store.remember(USED_SINCE, &7_u64.to_be_bytes()).unwrap();
        // All in one shard, while nobody writes.
        let writing = lock(&accesses.writing);
        for number in 0..=SHARD_LIMIT as u32 {
            accesses.note_at(1, hash(number << 8), 9);
        }
        drop(writing);
        assert_eq!(accesses.noted.load(Ordering::Relaxed), SHARD_LIMIT);
        accesses.flush().unwrap();
        assert!(accesses.since().unwrap().abs_diff(accesses.store.now()) < 60);
    }
}
