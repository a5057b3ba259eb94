//! Sweeping: what is needed of condemned packs moves, and the packs are removed.

use std::sync::Arc;
use std::time::Duration;

use super::condemned::Condemned;
use super::emptying::{Copies, Emptied};
use super::{Live, Pace};
use crate::pack::{PackError, PackId};
use crate::store::{Cause, Store, StoreError};

/// So many bytes are copied before they are made durable, and the packs they come from removed: how much
/// more room a sweep takes, and how much of it a crash undoes.
const BATCH: u64 = 256 * 1024 * 1024;

/// How to sweep.
pub struct SweepOptions<'a> {
    /// How long a pack has to have been condemned.
    pub grace: Duration,
    /// How fast.
    pub pace: Pace<'a>,
    /// Told how many of how many packs are done.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packs that were removed.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of records that were copied out of them.
    pub moved: u64,
    /// Records that were left behind because they are damaged.
    pub damaged: u64,
    /// Condemned packs whose time has not come: the grace period, or an upload that began before; or that
    /// are not there, and had something that is needed.
    pub waiting: u64,
    /// Those among them that wait for uploads alone.
    pub held_by_uploads: u64,
}

impl Swept {
    /// Both, one after the other: what waits is what the later one says.
    pub fn and(self, later: Self) -> Self {
        Self {
            packs: self.packs + later.packs,
            bytes: self.bytes + later.bytes,
            moved: self.moved + later.moved,
            damaged: self.damaged + later.damaged,
            waiting: later.waiting,
            held_by_uploads: later.held_by_uploads,
        }
    }

    /// Bytes that came back.
    pub fn freed(&self) -> u64 {
        self.bytes.saturating_sub(self.moved)
    }
}

impl Store {
    /// Removes the packs that were condemned before `live` was begun and whose time has come. `live` has
    /// everything marked that facts name. One process at a time may do this.
    pub fn sweep(
        self: &Arc<Self>,
        live: &Live,
        options: SweepOptions<'_>,
    ) -> Result<Swept, StoreError> {
        let SweepOptions { grace, mut pace, progress } = options;
        let mut swept = Swept::default();
        self.catch_up()?;
        let oldest = self.leased()?.oldest;
        let due = self.clock.ago(grace);
        let mut packs: Vec<Condemned> = Vec::new();
        for condemned in self.condemned()? {
            // Marking may have begun before this one was condemned; what was committed in between is not
            // marked then.
            let marked = condemned.epoch <= live.epoch;
            let flown = oldest.is_none_or(|oldest| oldest >= condemned.epoch);
            if condemned.since <= due && marked && flown {
                packs.push(condemned);
            } else {
                swept.waiting += 1;
                swept.held_by_uploads += u64::from(condemned.since <= due && marked);
            }
        }
        let total = packs.len() as u64;
        let (mut emptied, mut copied, mut failed) = (Vec::new(), 0, None);
        let mut copies = Copies::new(self);
        for (done, condemned) in (0..).zip(packs) {
            progress(done, total);
            if pace.is_over() {
                break;
            }
            let before = swept.moved;
            match self.empty(condemned.pack, live, &mut copies, &mut pace, &mut swept) {
                Ok(pack) => emptied.extend(pack),
                Err(error) if error.cause() == Cause::Unreachable => return Err(error),
                // The others go all the same: on a full disk those that are not needed at all make room.
                Err(error) => failed = failed.or(Some(error)),
            }
            copied += swept.moved - before;
            if copied >= BATCH {
                self.remove_emptied(std::mem::take(&mut emptied), &mut copies, &mut swept)?;
                copied = 0;
            }
        }
        self.remove_emptied(emptied, &mut copies, &mut swept)?;
        self.forget_left_behind(live)?;
        progress(total, total);
        failed.map_or(Ok(swept), Err)
    }

    /// Removes packs of which nothing is needed.
    fn remove_emptied(
        &self,
        packs: Vec<Emptied>,
        copies: &mut Copies<'_>,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        // The copies first, and whatever somebody else has stored anew instead.
        self.sync()?;
        self.leave_behind(&std::mem::take(&mut copies.left_behind))?;
        let ids: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
        if let Some(registry) = self.registry() {
            registry.remove(&ids)?;
            // An embedded index may forget after a crash what it was told last: where the copies lie, and
            // that these packs are removed. Objects that are gone do not come back with it.
            self.index.flush()?;
        }
        for id in &ids {
            self.packs().gone(*id);
        }
        self.locations().leave_out_gone();
        let (mut removed, mut failed) = (Vec::new(), None);
        for Emptied { id, len } in packs {
            self.packs().close(id);
            match self.packs().backend().remove(id) {
                Ok(()) => {
                    removed.push(id);
                    swept.packs += 1;
                    swept.bytes += len;
                }
                // It stays condemned, and the next sweep removes it.
                Err(error) => failed = failed.or(Some(PackError::io_in(id)(error))),
            }
        }
        self.forget_condemned(&removed)?;
        self.forget_damaged(&removed)?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
