//! Ends, wanted or not, and new beginnings.

use super::*;

impl World {
    pub(super) fn crash(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        if self.site.is_shared() && !a.is_multiple_of(64) {
            self.rest(member)?;
        }
        let mut epoch = self.store(member)?.epoch();
        self.site.kill(member);
        self.mending.retain(|_, at| *at != member);
        self.sent.clear();
        if self.site.is_local() && a.is_multiple_of(3) {
            self.site.lose_index(member);
            epoch = 0;
        }
        self.tally.crashes += 1;
        self.open_again(member, epoch)?;
        self.check(member)
    }

    /// What the process still held is dropped only now: none of it may matter.
    pub(super) fn open_again(&mut self, member: usize, epoch: u64) -> Result<(), Fault> {
        let old = self.members[member].take();
        let store = self.site.open(member).map_err(failed("opening the store again"))?;
        drop(old);
        if store.epoch() < epoch {
            // The engine did not open what it had written; the index was made anew from the packs.
            self.sent.clear();
            self.tally.remade += 1;
        }
        self.unpublished.clear();
        self.members[member] = Some(Member::new(store));
        Ok(())
    }

    pub(super) fn restart(&mut self, member: usize) -> Result<(), Fault> {
        if self.site.is_shared() {
            self.rest(member)?;
        }
        let epoch = self.store(member)?.epoch();
        self.members[member] = None;
        self.open_again(member, epoch)
    }
}
