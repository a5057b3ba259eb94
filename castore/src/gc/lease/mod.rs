//! Leases: what uploads rely on that no fact names yet.
//!
//! A *flight* is one upload under way, from its first look at what is stored to its commit. What it found
//! in its epoch stays until it is over. A *session* is somebody who sends chunks and publishes later,
//! possibly through another request and after a restart: the packs they lie in stay until nothing was
//! heard of them for a while.
//!
//! Each process keeps one record of its own in the index ([`record`]), for the collector wherever that
//! runs, and for itself after a restart.

mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;

use crate::holder::Holder;
use crate::index::{Batch, Index, IndexError, each_pair};
use crate::pack::PackId;
use crate::store::{Store, StoreError};
use crate::{Clock, Digest};
use record::{Lease, PREFIX, key, read};

/// How long what a client sent is kept after it was last heard of.
const SESSION: Duration = Duration::from_secs(15 * 60);
/// Nothing that was sent is kept for longer without being published.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a record holds for flights if it is not renewed.
const FLIGHT: Duration = Duration::from_secs(10 * 60);

#[derive(Default)]
struct Session {
    heard: u64,
    /// With the time at which each was first written to.
    packs: HashMap<PackId, u64>,
    /// Chunks that were sent and are in nothing that was published yet, as far as that is known.
    unpublished: HashSet<Digest>,
}

/// So many chunks of a session are remembered, some 60 MB. Beyond that its packs are kept until it lapses.
const MAX_UNPUBLISHED: usize = 1_000_000;

struct InFlight {
    epoch: u64,
    packs: HashSet<PackId>,
}

#[derive(Default)]
struct State {
    next: u64,
    flights: HashMap<u64, InFlight>,
    sessions: HashMap<Holder, Session>,
    /// What an earlier process left: kept for as long as it says, or somebody goes on.
    inherited: Option<Session>,
    /// What the index has; `None` where that is not known.
    written: Option<Lease>,
}

/// The leases of a process.
pub(crate) struct Leases {
    index: Arc<dyn Index>,
    clock: Clock,
    process: [u8; 8],
    state: Mutex<State>,
    /// Held while the record is made and written: what was made first must not be written last.
    writing: Mutex<()>,
}

/// What must be left alone.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    /// The epoch of the oldest flight.
    pub oldest: Option<u64>,
    /// Packs with what was sent and not published.
    pub packs: HashSet<PackId>,
}

impl State {
    /// Forgets sessions that have lapsed.
    fn lapse(&mut self, now: u64) {
        let heard_after = now.saturating_sub(SESSION.as_secs());
        let written_after = now.saturating_sub(LONGEST.as_secs());
        let keep = |session: &mut Session| {
            // A clock that was ahead must not keep anything for longer.
            session.heard = session.heard.min(now);
            session.packs.retain(|_, first| {
                *first = now.min(*first);
                *first > written_after
            });
            session.heard > heard_after
        };
        self.sessions.retain(|_, session| keep(session));
        let latest = self.sessions.values().map(|session| session.heard).max();
        if let Some(inherited) = &mut self.inherited {
            inherited.heard = inherited.heard.max(latest.unwrap_or_default());
        }
        self.inherited.take_if(|session| !keep(session));
    }

    fn leased(&self, flights: bool) -> Leased {
        let mut packs = HashSet::new();
        for session in self.sessions.values().chain(&self.inherited) {
            packs.extend(session.packs.keys());
        }
        if !flights {
            return Leased { oldest: None, packs };
        }
        for flight in self.flights.values() {
            packs.extend(&flight.packs);
        }
        let oldest = self.flights.values().map(|flight| flight.epoch).min();
        Leased { oldest, packs }
    }

    fn record(&self, now: u64, flights: bool) -> Lease {
        let mut packs: BTreeMap<PackId, u64> = BTreeMap::new();
        let mut add = |pack: PackId, first: u64| {
            let latest = packs.entry(pack).or_insert(first);
            *latest = first.max(*latest);
        };
        let sessions = || self.sessions.values().chain(&self.inherited);
        for session in sessions() {
            session.packs.iter().for_each(|(pack, first)| add(*pack, *first));
        }
        let leased = self.leased(flights);
        if flights {
            let flown = self.flights.values().flat_map(|flight| &flight.packs);
            flown.for_each(|pack| add(*pack, now));
        }
        let heard = sessions().map(|session| session.heard).max();
        let flights = leased.oldest.map(|_| now + FLIGHT.as_secs());
        let until = heard.map(|heard| heard + SESSION.as_secs()).max(flights).unwrap_or_default();
        Lease::new(until, leased.oldest, packs.into_iter())
    }
}

impl Leases {
    /// No leases yet, but those that an earlier process on an index of this process's own has left.
    pub fn open(index: Arc<dyn Index>, clock: Clock) -> Result<Self, StoreError> {
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(std::io::Error::other)?;
        let state = State { written: Some(Lease::default()), ..State::default() };
        let (state, writing) = (Mutex::new(state), Mutex::default());
        let leases = Self { index, clock, process, state, writing };
        if leases.index.shared().is_none() {
            leases.inherit()?;
        }
        Ok(leases)
    }

    fn inherit(&self) -> Result<(), StoreError> {
        let (now, mut packs, mut heard) = (self.clock.now(), HashMap::new(), 0);
        let mut batch = Batch::default();
        each_pair(&*self.index, &[PREFIX], |key, value| {
            let lease = read(&value)?;
            if lease.holds(now) {
                heard = heard.max(lease.until.saturating_sub(SESSION.as_secs())).min(now);
                packs.extend(lease.packs().map(|(pack, first)| (pack, first.unwrap_or(now))));
            }
            batch.remove(key);
            Ok(())
        })?;
        if packs.is_empty() && batch.change.is_empty() {
            return Ok(());
        }
        self.lock().inherited =
            (!packs.is_empty()).then_some(Session { heard, packs, ..Session::default() });
        let record = self.lock().record(now, false);
        batch.put(key(&self.process), record.encode_to_vec());
        self.index.apply(&batch)?;
        self.lock().written = Some(record);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a flight.
    fn begin(&self, epoch: u64) -> Result<u64, IndexError> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            let number = state.next;
            state.flights.insert(number, InFlight { epoch, packs: HashSet::new() });
            number
        };
        // Whoever collects elsewhere has to know of it before it relies on anything.
        if self.index.shared().is_some()
            && let Err(error) = self.write()
        {
            self.lock().flights.remove(&number);
            return Err(error);
        }
        Ok(number)
    }

    /// Writes the record if the one in the index does not say enough.
    fn write(&self) -> Result<(), IndexError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let record = {
            let mut state = self.lock();
            state.lapse(now);
            // No flight outlives its process, and nobody else looks at an index of its own.
            let record = state.record(now, self.index.shared().is_some());
            if state.written.as_ref().is_some_and(|written| is_enough(written, &record, now)) {
                return Ok(());
            }
            // After an error the index may have it all the same.
            state.written = None;
            record
        };
        let mut batch = Batch::default();
        match record.until {
            0 => batch.remove(key(&self.process)),
            _ => batch.put(key(&self.process), record.encode_to_vec()),
        };
        self.index.apply(&batch)?;
        self.lock().written = Some(record);
        Ok(())
    }

    /// Somebody has sent chunks, which lie in these packs now.
    fn heard(
        &self,
        holder: Holder,
        packs: impl Iterator<Item = PackId>,
        chunks: impl Iterator<Item = Digest>,
    ) -> Result<(), IndexError> {
        let now = self.clock.now();
        {
            let mut state = self.lock();
            let mut packs = packs.peekable();
            if packs.peek().is_none() && !state.sessions.contains_key(&holder) {
                return Ok(());
            }
            let session = state.sessions.entry(holder).or_default();
            session.heard = now;
            for pack in packs {
                session.packs.entry(pack).or_insert(now);
            }
            let room = (MAX_UNPUBLISHED + 1).saturating_sub(session.unpublished.len());
            session.unpublished.extend(chunks.take(room));
        }
        self.write()
    }

    /// Everything that any process keeps.
    fn all(&self) -> Result<Leased, IndexError> {
        let now = self.clock.now();
        let mut leased = {
            let mut state = self.lock();
            state.lapse(now);
            state.leased(true)
        };
        let mut lapsed = Batch::default();
        each_pair(&*self.index, &[PREFIX], |at, value| {
            if at[1..] == self.process {
                return Ok(());
            }
            let lease = read(&value)?;
            if !lease.holds(now) {
                lapsed.expect(&at[..], Some(value)).remove(at);
                return Ok(());
            }
            leased.packs.extend(lease.packs().map(|(pack, _)| pack));
            leased.oldest = match (leased.oldest, lease.oldest.checked_sub(1)) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            Ok(())
        })?;
        match self.index.apply(&lapsed) {
            // One was renewed at the last moment.
            Err(IndexError::Conflict) => Ok(leased),
            applied => applied.map(|()| leased),
        }
    }
}

/// Whether what the index has says all that this record does.
fn is_enough(written: &Lease, record: &Lease, now: u64) -> bool {
    if record.is_idle() || written.is_idle() {
        return record.is_idle() && written.is_idle();
    }
    // What lapses later than is due does no harm; half of the time is left for the next one. But no time
    // is due that only a clock has told which was ahead.
    let due = record.until.min(now + FLIGHT.as_secs() / 2);
    (due..=now + SESSION.as_secs()).contains(&written.until)
        && written.covers(record)
        && written.len() < 2 * record.len() + 8
}

/// One upload under way. What it found to be there when it began stays until this is dropped.
pub struct Flight {
    leases: Arc<Leases>,
    number: u64,
    epoch: u64,
}

impl Flight {
    /// The collector's epoch when it began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something of it lies in this pack.
    pub(crate) fn wrote(&self, pack: Option<PackId>) {
        let Some(pack) = pack else { return };
        if let Some(flight) = self.leases.lock().flights.get_mut(&self.number) {
            flight.packs.insert(pack);
        }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flight({}, epoch {})", self.number, self.epoch)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.leases.lock().flights.remove(&self.number);
    }
}

impl Store {
    /// Begins a flight.
    pub(crate) fn flight(&self) -> Result<Flight, StoreError> {
        loop {
            let epoch = self.epoch();
            let number = self.leases.begin(epoch)?;
            let flight = Flight { leases: self.leases.clone(), number, epoch };
            if !self.is_shared() {
                return Ok(flight);
            }
            // Another process may have condemned packs, and even removed them before it could know of this
            // flight.
            self.follow_epoch()?;
            if self.epoch() == epoch {
                return Ok(flight);
            }
        }
    }

    /// Somebody has sent chunks, which lie in these packs now.
    pub(crate) fn heard_of(
        &self,
        holder: Holder,
        packs: impl Iterator<Item = PackId>,
        chunks: impl Iterator<Item = Digest>,
    ) -> Result<(), StoreError> {
        Ok(self.leases.heard(holder, packs, chunks)?)
    }

    /// These chunks are in something that is about to be published, and kept by its flight. Once that is
    /// so of all that somebody sent, no pack is kept for them any more.
    pub(crate) fn published(
        &self,
        holder: Holder,
        chunks: impl Iterator<Item = Digest>,
    ) -> Result<(), StoreError> {
        {
            let mut state = self.leases.lock();
            let Some(session) = state.sessions.get_mut(&holder) else { return Ok(()) };
            if session.unpublished.len() > MAX_UNPUBLISHED {
                return Ok(());
            }
            for chunk in chunks {
                session.unpublished.remove(&chunk);
            }
            if !session.unpublished.is_empty() {
                return Ok(());
            }
            state.sessions.remove(&holder);
        }
        // Whoever comes after this process would keep them for its sake.
        Ok(self.leases.write()?)
    }

    /// Keeps the leases of this process from lapsing. Where others share the index this has to be called
    /// every few minutes.
    pub(crate) fn renew_leases(&self) -> Result<(), StoreError> {
        Ok(self.leases.write()?)
    }

    /// What must be left alone.
    pub(super) fn leased(&self) -> Result<Leased, StoreError> {
        Ok(self.leases.all()?)
    }
}
