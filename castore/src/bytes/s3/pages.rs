//! Pages of sealed packs: from the disk, from a fetch under way, or by a new fetch.
//!
//! A page is fetched once, however many want it, and is handed to them as soon as it is there, before
//! the disk has it. It stays with its fetch until the disk has it, so there is no moment at which it
//! would be fetched again.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::disk::{Disk, Part};
use super::error::{Failure, S3Error};
use super::flight::Flight;
use super::window::{LARGEST, PAGE, Windows, page_of, run};
use crate::pack::PackId;

/// Pages that fetches for waiting readers hold in memory together: 64 MiB.
const FOREGROUND_PAGES: usize = 64;
/// Pages that fetches by hints hold in memory together: 64 MiB.
const BACKGROUND_PAGES: usize = 64;
/// Fetches by hints under way at once. Enough to hide a far server's answering time.
const BACKGROUND_FETCHES: usize = 4;
/// Pages kept in memory because the disk did not take them (it is full): two of the largest fetches,
/// so that the rest of a fetch is there when it is asked for.
const UNWRITTEN: usize = 2 * LARGEST as usize;
/// Fetches are kept below this share of the cache, or they would push out each other's pages.
const SHARE: u64 = 8;

type Key = (PackId, u32);

/// Where a page is to be had.
pub enum Found {
    /// On the disk; the stamp tells the file from a later one.
    File(File, u64),
    /// In memory.
    Memory(Bytes),
    /// It is being fetched.
    Coming(Arc<Flight>),
    /// Nowhere near.
    Absent,
}

#[derive(Default)]
struct State {
    flights: HashMap<Key, Arc<Flight>>,
    unwritten: VecDeque<(Key, Bytes)>,
    windows: Windows,
    /// Lengths of packs, where they are known. Sealed packs keep theirs.
    lengths: HashMap<PackId, u64>,
}

/// The pages of all packs.
pub struct Pages {
    bucket: Arc<Bucket>,
    runtime: Handle,
    disk: Disk,
    largest: u32,
    state: Mutex<State>,
    foreground: Arc<Semaphore>,
    background: Arc<Semaphore>,
    hints: Arc<Semaphore>,
}

impl Pages {
    pub fn new(bucket: Arc<Bucket>, runtime: Handle, disk: Disk, cache_bytes: u64) -> Self {
        let largest = (cache_bytes / SHARE / PAGE).clamp(1, u64::from(LARGEST)) as u32;
        Self {
            bucket,
            runtime,
            disk,
            largest,
            state: Mutex::default(),
            foreground: Arc::new(Semaphore::new(FOREGROUND_PAGES)),
            background: Arc::new(Semaphore::new(BACKGROUND_PAGES)),
            hints: Arc::new(Semaphore::new(BACKGROUND_FETCHES)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Length of a pack, if it is known.
    pub fn length(&self, id: PackId) -> Option<u64> {
        self.state().lengths.get(&id).copied()
    }

    /// Remembers the length of a sealed pack.
    pub fn set_length(&self, id: PackId, len: u64) {
        self.state().lengths.insert(id, len);
    }

    /// Forgets the length of a pack that is not there.
    pub fn unset_length(&self, id: PackId) {
        self.state().lengths.remove(&id);
    }

    /// Forgets a pack that is removed.
    pub fn remove(&self, id: PackId) {
        self.unset_length(id);
        self.disk.remove(id, &(0..=u32::MAX));
    }

    /// The whole pack, if it lies on the disk.
    pub fn whole(&self, id: PackId) -> Option<(File, u64)> {
        self.disk.get(id, Part::Whole)
    }

    /// Takes the file of a pack that was sealed here.
    pub fn adopt(&self, from: &Path, id: PackId, len: u64) -> io::Result<()> {
        self.set_length(id, len);
        self.disk.adopt(from, id, Part::Whole, len)
    }

    /// Removes a cached file that turned out to be bad.
    pub fn forget(&self, id: PackId, part: Part, stamp: u64) {
        self.disk.forget(id, part, stamp);
    }

    /// Where the page is at the moment.
    pub fn find(&self, id: PackId, page: u32) -> Found {
        if let Some((file, stamp)) = self.disk.get(id, Part::Page(page)) {
            return Found::File(file, stamp);
        }
        let state = self.state();
        if let Some(flight) = state.flights.get(&(id, page)) {
            return match flight.ready(page) {
                Some(bytes) => Found::Memory(bytes),
                None => Found::Coming(flight.clone()),
            };
        }
        let unwritten = state.unwritten.iter().find(|(key, _)| *key == (id, page));
        match unwritten {
            Some((_, bytes)) => Found::Memory(bytes.clone()),
            None => Found::Absent,
        }
    }

    /// The fetch that brings the page: the one under way, or a new one that reaches to `wanted`. `None`:
    /// the page is there by now.
    pub fn fetch(self: &Arc<Self>, id: PackId, page: u32, wanted: u32) -> Option<Arc<Flight>> {
        let mut state = self.state();
        if let Some(flight) = state.flights.get(&(id, page)) {
            return Some(flight.clone());
        }
        if !self.missing(&state, id, page) {
            return None;
        }
        let (flight, pages) = self.begin(&mut state, id, page, wanted);
        let (memory, count) = (self.foreground.clone(), pages.len() as u32);
        let this = self.clone();
        let landing = Landing { pages: this, id, run: pages, flight: flight.clone() };
        self.runtime.spawn(async move {
            // Closed never; without a permit the landing says that the fetch was abandoned.
            if let Ok(_memory) = memory.acquire_many_owned(count).await {
                landing.fly().await;
            }
        });
        Some(flight)
    }

    /// Begins to fetch what is missing of the range, as far as hints may.
    pub fn hint(self: &Arc<Self>, id: PackId, range: &Range<u64>) {
        if range.is_empty() || self.disk.has(id, Part::Whole) {
            return;
        }
        let end = match self.length(id) {
            Some(len) => range.end.min(len),
            None => range.end,
        };
        if end <= range.start {
            return;
        }
        let (mut page, wanted) = (page_of(range.start), page_of(end - 1).saturating_add(1));
        while page < wanted {
            let Ok(turn) = self.hints.clone().try_acquire_owned() else {
                return;
            };
            let mut state = self.state();
            let Some(missing) = (page..wanted).find(|page| self.missing(&state, id, *page)) else {
                return;
            };
            // As much as there may be, for as much as there will be.
            let Ok(memory) = self.background.clone().try_acquire_many_owned(self.largest) else {
                return;
            };
            let (flight, pages) = self.begin(&mut state, id, missing, wanted);
            drop(state);
            page = pages.end;
            let memory = split(memory, pages.len());
            let landing = Landing { pages: self.clone(), id, run: pages, flight };
            self.runtime.spawn(async move {
                landing.fly().await;
                drop((turn, memory));
            });
        }
    }

    fn missing(&self, state: &State, id: PackId, page: u32) -> bool {
        !state.flights.contains_key(&(id, page))
            && !self.disk.has(id, Part::Page(page))
            && !state.unwritten.iter().any(|(key, _)| *key == (id, page))
    }

    fn begin(
        &self,
        state: &mut State,
        id: PackId,
        page: u32,
        wanted: u32,
    ) -> (Arc<Flight>, Range<u32>) {
        let window = state.windows.next(id, self.largest);
        let last = state.lengths.get(&id).map_or(u32::MAX, |len| page_of(len.saturating_sub(1)));
        let missing = |page| page <= last && self.missing(state, id, page);
        let pages = run(page, wanted, window, self.largest, missing);
        let flight = Arc::new(Flight::default());
        for page in pages.clone() {
            state.flights.insert((id, page), flight.clone());
        }
        (flight, pages)
    }

    /// What is cached of the range, and on its way into the cache, is not taken from there again.
    pub fn distrust(&self, id: PackId, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let pages = page_of(range.start)..=page_of(range.end - 1);
        let mut state = self.state();
        state.flights.retain(|(of, page), _| *of != id || !pages.contains(page));
        state.unwritten.retain(|((of, page), _)| *of != id || !pages.contains(page));
        drop(state);
        self.disk.remove(id, &pages);
    }

    /// Keeps a page that came, unless it is not wanted any more. Waits for the disk.
    fn keep(&self, id: PackId, page: u32, bytes: &Bytes, flight: &Arc<Flight>) {
        let written = self.disk.write(id, page, bytes);
        let mut state = self.state();
        if !state.flights.get(&(id, page)).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            drop(state);
            if let Ok(path) = written {
                let _ = std::fs::remove_file(path);
            }
            return;
        }
        let part = Part::Page(page);
        let kept = written.and_then(|path| self.disk.adopt(&path, id, part, bytes.len() as u64));
        if let Err(error) = kept {
            tracing::debug!(%error, pack = %id, page, "the cache does not take a page");
            state.unwritten.push_back(((id, page), bytes.clone()));
            if state.unwritten.len() > UNWRITTEN {
                state.unwritten.pop_front();
            }
        }
        state.flights.remove(&(id, page));
    }

    /// Bytes that are cached on the disk.
    #[cfg(test)]
    pub fn cached(&self) -> u64 {
        self.disk.bytes()
    }
}

/// Gives back what is more than `pages`.
fn split(mut memory: OwnedSemaphorePermit, pages: usize) -> OwnedSemaphorePermit {
    let spare = memory.num_permits().saturating_sub(pages);
    drop(memory.split(spare));
    memory
}

/// A fetch on its way. Dropped, at its end or before, it leaves nobody waiting.
struct Landing {
    pages: Arc<Pages>,
    id: PackId,
    run: Range<u32>,
    flight: Arc<Flight>,
}

impl Landing {
    async fn fly(self) {
        let mut keeping = JoinSet::new();
        let ended = self.receive(&mut keeping).await;
        self.flight.end(ended);
        while keeping.join_next().await.is_some() {}
    }

    async fn receive(&self, keeping: &mut JoinSet<()>) -> Result<(), S3Error> {
        let bucket = &self.pages.bucket;
        let name = super::object_name(self.id);
        let len = self.run.len() as u64 * PAGE;
        let mut attempts = bucket.attempts(bucket.patience.read(len), "read", &name);
        let mut next = self.run.start;
        loop {
            if attempts.attempt(self.receive_from(&name, &mut next, keeping)).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// One attempt, which goes on where the one before broke off.
    async fn receive_from(
        &self,
        name: &str,
        next: &mut u32,
        keeping: &mut JoinSet<()>,
    ) -> Result<(), Failure> {
        let bucket = &self.pages.bucket;
        let start = u64::from(*next) * PAGE;
        let asked = start..u64::from(self.run.end) * PAGE;
        let (mut body, total) = bucket.range(name, asked.clone()).await?;
        self.pages.set_length(self.id, total);
        let mut left = asked.end.min(total) - start;
        let mut page = Vec::new();
        while left > 0 {
            let Some(bytes) = bucket.next(&mut body).await? else {
                return Err(Failure::again("the body was cut short"));
            };
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                let size = PAGE.min(left + page.len() as u64) as usize;
                if page.is_empty() {
                    page.reserve_exact(size);
                }
                let (now, later) = bytes.split_at(bytes.len().min(size - page.len()));
                if now.is_empty() {
                    return Err(Failure::again("the body is longer than it should be"));
                }
                page.extend_from_slice(now);
                bytes = later;
                left -= now.len() as u64;
                if page.len() == size {
                    self.arrived(*next, Bytes::from(std::mem::take(&mut page)), keeping);
                    *next += 1;
                }
            }
        }
        // A body that was read to its end leaves its connection to the next request.
        let _ = bucket.next(&mut body).await;
        Ok(())
    }

    fn arrived(&self, page: u32, bytes: Bytes, keeping: &mut JoinSet<()>) {
        self.flight.publish(page, bytes.clone());
        let (pages, id, flight) = (self.pages.clone(), self.id, self.flight.clone());
        keeping.spawn_blocking(move || pages.keep(id, page, &bytes, &flight));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.abandon(&super::object_name(self.id));
        let mut state = self.pages.state();
        for page in self.run.clone() {
            let key = (self.id, page);
            if state.flights.get(&key).is_some_and(|current| Arc::ptr_eq(current, &self.flight)) {
                state.flights.remove(&key);
            }
        }
    }
}
