//! Leases: what uploads rely on that no fact names yet.
//!
//! A *flight* is one upload under way, from its first look at what is stored to its commit. What it found
//! in its epoch stays until it is over. A *session* is somebody who sends chunks and publishes later,
//! possibly through another request and after a restart: the packs they lie in stay until nothing was
//! heard of them for a while.
//!
//! Each process keeps one record of its own in the index, for the collector wherever that runs, and for
//! itself after a restart:
//!
//! ```text
//! "l" process(8, random) -> Lease        protobuf, below
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;

use super::now;
use crate::Digest;
use crate::holder::Holder;
use crate::index::{Batch, Index, IndexError, each_pair};
use crate::pack::PackId;
use crate::store::{Store, StoreError};

/// How long what a client sent is kept after it was last heard of.
const SESSION: Duration = Duration::from_secs(15 * 60);
/// Nothing that was sent is kept for longer without being published.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long a record holds for flights if it is not renewed.
const FLIGHT: Duration = Duration::from_secs(10 * 60);
const PREFIX: u8 = b'l';

/// What a process keeps from being collected.
#[derive(Clone, PartialEq, Message)]
struct Lease {
    /// Until when, in seconds since 1970.
    #[prost(uint64, tag = "1")]
    until: u64,
    /// The epoch of the oldest flight and 1; 0 if there is none.
    #[prost(uint64, tag = "2")]
    oldest: u64,
    /// Packs.
    #[prost(bytes = "vec", repeated, tag = "3")]
    packs: Vec<Vec<u8>>,
}

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
    /// What the index has.
    written: Lease,
}

/// The leases of a process.
pub(crate) struct Leases {
    index: Arc<dyn Index>,
    process: [u8; 8],
    state: Mutex<State>,
}

/// What must be left alone.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    /// The epoch of the oldest flight.
    pub oldest: Option<u64>,
    /// Packs with what was sent and not published.
    pub packs: HashSet<PackId>,
}

fn key(process: &[u8]) -> Vec<u8> {
    [&[PREFIX][..], process].concat()
}

fn read(value: &[u8]) -> Result<Lease, IndexError> {
    Lease::decode(value)
        .map_err(|error| IndexError::Engine { engine: "leases", source: Box::new(error) })
}

fn ids(packs: &[Vec<u8>]) -> impl Iterator<Item = PackId> {
    let id = |bytes: &Vec<u8>| <[u8; PackId::LEN]>::try_from(&bytes[..]).ok();
    packs.iter().filter_map(id).map(PackId::from_bytes)
}

impl State {
    /// Forgets sessions that have lapsed.
    fn lapse(&mut self, now: u64) {
        let heard_after = now.saturating_sub(SESSION.as_secs());
        let written_after = now.saturating_sub(LONGEST.as_secs());
        let keep = |session: &mut Session| {
            session.packs.retain(|_, first| *first > written_after);
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
        let leased = self.leased(flights);
        let heard =
            self.sessions.values().chain(&self.inherited).map(|session| session.heard).max();
        let flights = leased.oldest.map(|_| now + FLIGHT.as_secs());
        let until = heard.map(|heard| heard + SESSION.as_secs()).max(flights).unwrap_or_default();
        let mut packs: Vec<Vec<u8>> =
            leased.packs.iter().map(|pack| pack.as_bytes().to_vec()).collect();
        packs.sort_unstable();
        Lease { until, oldest: leased.oldest.map_or(0, |epoch| epoch + 1), packs }
    }
}

impl Leases {
    /// No leases yet, but those that an earlier process on an index of this process's own has left.
    pub fn open(index: Arc<dyn Index>) -> Result<Self, StoreError> {
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(std::io::Error::other)?;
        let leases = Self { index, process, state: Mutex::default() };
        if leases.index.shared().is_none() {
            leases.inherit()?;
        }
        Ok(leases)
    }

    fn inherit(&self) -> Result<(), StoreError> {
        let (now, mut packs, mut heard) = (now(), HashMap::new(), 0);
        let mut batch = Batch::default();
        each_pair(&*self.index, &[PREFIX], |key, value| {
            let lease = read(&value)?;
            if lease.until > now {
                heard = heard.max(lease.until - SESSION.as_secs());
                packs.extend(ids(&lease.packs).map(|pack| (pack, now)));
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
        self.lock().written = record;
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
        let now = now();
        let record = {
            let mut state = self.lock();
            state.lapse(now);
            // No flight outlives its process, and nobody else looks at an index of its own.
            let record = state.record(now, self.index.shared().is_some());
            let written = &state.written;
            let idle = record.oldest == 0 && record.packs.is_empty();
            if idle && written.oldest == 0 && written.packs.is_empty() {
                return Ok(());
            }
            // What lapses later than is due does no harm; half of the time is left for the next one.
            let lasts = written.until >= record.until.min(now + FLIGHT.as_secs() / 2);
            let covers = (record.oldest == 0) == (written.oldest == 0)
                && (record.oldest == 0 || written.oldest <= record.oldest)
                && record.packs.iter().all(|pack| written.packs.contains(pack));
            if !idle && lasts && covers && written.packs.len() < 2 * record.packs.len() + 8 {
                return Ok(());
            }
            record
        };
        let mut batch = Batch::default();
        match record.until {
            0 => batch.remove(key(&self.process)),
            _ => batch.put(key(&self.process), record.encode_to_vec()),
        };
        self.index.apply(&batch)?;
        self.lock().written = record;
        Ok(())
    }

    /// Everything that any process keeps.
    fn all(&self) -> Result<Leased, IndexError> {
        let now = now();
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
            if lease.until <= now {
                lapsed.expect(&at[..], Some(value)).remove(at);
                return Ok(());
            }
            leased.packs.extend(ids(&lease.packs));
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
        let now = now();
        {
            let mut state = self.leases.lock();
            let mut packs = packs.peekable();
            if packs.peek().is_none() && !state.sessions.contains_key(&holder) {
                return Ok(());
            }
            let session = state.sessions.entry(holder).or_default();
            session.heard = now;
            session.packs.extend(packs.map(|pack| (pack, now)));
            let room = (MAX_UNPUBLISHED + 1).saturating_sub(session.unpublished.len());
            session.unpublished.extend(chunks.take(room));
        }
        Ok(self.leases.write()?)
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
