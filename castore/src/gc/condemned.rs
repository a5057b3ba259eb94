//! Which packs are condemned, kept in the index.
//!
//! ```text
//! "m/epoch"          -> how often packs have been condemned so far (8, big-endian)
//! "x" pack(16)       -> epoch(8) seconds since 1970(8)     big-endian
//! ```
//!
//! Every process holds a copy in memory, which may be old. So whoever relies on it says how old it is: a
//! transaction carries its epoch, and is refused when that is not the index's.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::facts::CommitError;
use crate::index::{Batch, Index, IndexError, each_pair, number};
use crate::pack::PackId;
use crate::packs::Packs;
use crate::store::{Store, StoreError};

/// Index key of the epoch.
pub(crate) const EPOCH_KEY: &[u8] = b"m/epoch";
const PREFIX: u8 = b'x';

/// A condemned pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// Which.
    pub pack: PackId,
    /// The epoch that began with that.
    pub epoch: u64,
    /// When, in seconds since 1970.
    pub since: u64,
}

impl Condemned {
    fn value(&self) -> Vec<u8> {
        [self.epoch.to_be_bytes(), self.since.to_be_bytes()].concat()
    }
}

fn key(pack: PackId) -> Vec<u8> {
    [&[PREFIX][..], pack.as_bytes()].concat()
}

fn damaged() -> IndexError {
    let source =
        "the list of condemned packs is damaged: rebuild the index with granary fsck --rebuild";
    IndexError::Engine { engine: "collector", source: source.into() }
}

/// The condemned packs.
pub(crate) fn list(index: &dyn Index) -> Result<Vec<Condemned>, IndexError> {
    let mut condemned = Vec::new();
    each_pair(index, &[PREFIX], |key, value| {
        let pack = <[u8; PackId::LEN]>::try_from(&key[1..]).map_err(|_| damaged())?;
        let (epoch, since) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
        condemned.push(Condemned {
            pack: PackId::from_bytes(pack),
            epoch: u64::from_be_bytes(*epoch),
            since: number(Some(since)),
        });
        Ok(())
    })?;
    Ok(condemned)
}

/// What this process knows of it.
#[derive(Default)]
pub(crate) struct Seen {
    epoch: AtomicU64,
    /// Held while the epoch and the packs change, which belong together.
    changing: Mutex<()>,
    /// Packs were condemned here, and whether that came to anything is not known.
    in_doubt: AtomicBool,
}

impl Seen {
    /// The epoch whose condemned packs are known here.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Takes in what the index says. `catch_up` finds out which packs are removed.
    pub fn refresh(
        &self,
        index: &dyn Index,
        packs: &Packs,
        catch_up: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let in_doubt = self.in_doubt.swap(false, Ordering::AcqRel);
        let taken_in = self.take_in(index, packs, catch_up);
        if in_doubt && taken_in.is_err() {
            self.in_doubt.store(true, Ordering::Release);
        }
        taken_in
    }

    fn take_in(
        &self,
        index: &dyn Index,
        packs: &Packs,
        catch_up: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // The epoch first: what is condemned after it is known too early, which does no harm.
        let epoch = number(index.get(EPOCH_KEY)?.as_deref());
        let condemned: HashSet<PackId> = list(index)?.iter().map(|it| it.pack).collect();
        // A pack that was removed is condemned no more, and must not be taken for one that stays.
        catch_up()?;
        packs.condemn_only(condemned);
        self.epoch.store(epoch, Ordering::Release);
        Ok(())
    }
}

impl Store {
    /// The epoch of the collector whose decisions are known here.
    pub fn epoch(&self) -> u64 {
        self.condemned.epoch()
    }

    /// Takes in what the collector, wherever it runs, has decided meanwhile.
    pub fn refresh_epoch(&self) -> Result<(), StoreError> {
        self.condemned.refresh(&*self.index, &self.packs, || self.catch_up())
    }

    /// Takes it in if there is anything new.
    pub(crate) fn follow_epoch(&self) -> Result<(), StoreError> {
        let epoch = number(self.index.get(EPOCH_KEY)?.as_deref());
        let is_known = epoch == self.epoch() && !self.condemned.in_doubt.load(Ordering::Acquire);
        if is_known { Ok(()) } else { self.refresh_epoch() }
    }

    /// Condemns packs. Whoever commits after this has taken it into account.
    pub(crate) fn condemn(&self, packs: &[PackId]) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        let since = self.now();
        let begun = self.facts.alone(&|| {
            let before = self.index.get(EPOCH_KEY)?;
            let epoch = number(before.as_deref()) + 1;
            let mut batch = Batch::default();
            batch.expect(EPOCH_KEY, before).put(EPOCH_KEY, epoch.to_be_bytes());
            for pack in packs {
                batch.put(key(*pack), Condemned { pack: *pack, epoch, since }.value());
            }
            // Early here, since nobody may believe in the new epoch and not know of these packs.
            let mut condemned: HashSet<PackId> =
                list(&*self.index)?.iter().map(|it| it.pack).collect();
            condemned.extend(packs);
            self.packs.condemn_only(condemned);
            Ok(batch)
        });
        if let Err(error) = begun {
            // Otherwise they would never be chosen again, in an epoch that has not changed.
            self.condemned.in_doubt.store(true, Ordering::Release);
            return Err(error.into());
        }
        self.refresh_epoch()
    }

    /// The packs are removed, and nobody need know any more that they were condemned.
    pub(super) fn forget_condemned(&self, packs: &[PackId]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for pack in packs {
            batch.remove(key(*pack));
        }
        Ok(self.index.apply(&batch)?)
    }

    /// The condemned packs. One that was condemned by a clock that was ahead is condemned since now.
    pub(super) fn condemned(&self) -> Result<Vec<Condemned>, StoreError> {
        let (now, mut batch) = (self.now(), Batch::default());
        let mut condemned = list(&*self.index)?;
        for pack in condemned.iter_mut().filter(|pack| pack.since > now) {
            batch.expect(key(pack.pack), Some(pack.value()));
            pack.since = now;
            batch.put(key(pack.pack), pack.value());
        }
        if batch.change.is_empty() {
            return Ok(condemned);
        }
        match self.index.apply(&batch) {
            // Somebody else saw to it.
            Ok(()) | Err(IndexError::Conflict) => Ok(condemned),
            Err(error) => Err(error.into()),
        }
    }
}

/// The error of a transaction whose epoch is over.
pub(crate) fn outdated(secured: Option<u64>, epoch: u64) -> Result<(), CommitError> {
    match secured {
        Some(secured) if secured != epoch => Err(CommitError::Outdated),
        _ => Ok(()),
    }
}
