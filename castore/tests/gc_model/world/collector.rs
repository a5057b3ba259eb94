//! The steps of the collector, and damage.

use super::*;

impl World {
    /// Marks so many facts.
    pub(super) fn mark(&mut self, count: usize) -> Result<(), Fault> {
        let Some(member) = self.members.iter_mut().flatten().find(|member| member.live.is_some())
        else {
            return Ok(());
        };
        let (store, Some(marking)) = (member.store.clone(), &mut member.live) else {
            return Ok(());
        };
        let count = count.min(1000);
        let facts = store.scan_facts(b"k", Some(&marking.after), count);
        let facts = facts.map_err(failed("reading facts"))?;
        marking.done |= facts.len() < count;
        for (key, fact) in facts {
            let tree = Digest::from_slice(&fact.value).ok_or("a fact is not a digest")?;
            marking.live.tree(&tree, &[holder()]).map_err(failed("marking a tree"))?;
            marking.after = key;
        }
        if marking.live.missing > 0 {
            return Err(format!(
                "{} trees or lists that are needed are lost",
                marking.live.missing
            ));
        }
        Ok(())
    }

    /// The process that has marked everything.
    pub(super) fn collector(&self) -> Option<&Member> {
        let marked = |member: &&Member| member.live.as_ref().is_some_and(|live| live.done);
        self.members.iter().flatten().find(marked)
    }

    pub(super) fn condemn(&mut self, a: u16) -> Result<(), Fault> {
        let Some(member) = self.collector() else { return Ok(()) };
        let Some(marking) = &member.live else { return Ok(()) };
        let share = [0.0, 0.05, 0.3, 1.0][usize::from(a) % 4];
        let plan = member.store.plan_packs(&marking.live, share).map_err(failed("planning"))?;
        member.store.condemn_planned(&plan).map_err(failed("condemning"))?;
        Ok(())
    }

    /// Sweeps, with a grace period now and then; or stops after some packs.
    pub(super) fn sweep(&mut self, a: u16, b: u16) -> Result<bool, Fault> {
        let idle = |member: &Option<Member>| member.as_ref().is_some_and(|it| it.live.is_none());
        if self.site.is_shared()
            && a.is_multiple_of(2)
            && let Some(other) = self.members.iter().position(idle)
        {
            self.rest(other)?;
        }
        let Some(member) = self.collector() else { return Ok(false) };
        let Some(marking) = &member.live else { return Ok(false) };
        let grace = Duration::from_secs(if a.is_multiple_of(5) { 3600 } else { 0 });
        let stop = AtomicBool::new(false);
        let stop_at = (b.is_multiple_of(3)).then_some(u64::from(b / 3 % 4));
        let mut progress = |done, _| {
            if stop_at == Some(done) {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let pace = Pace::new(None, Some(&stop));
        let options = SweepOptions { grace, pace, progress: &mut progress };
        let swept = member.store.sweep(&marking.live, options).map_err(failed("sweeping"))?;
        self.tally.swept += swept.packs;
        self.tally.moved += swept.moved;
        self.tally.waiting += swept.waiting;
        self.tally.held += swept.held_by_uploads;
        self.tally.stopped += u64::from(stop.load(Ordering::Relaxed));
        if swept.damaged > 0 {
            return Err(format!("{} damaged records were met", swept.damaged));
        }
        if swept.packs > 0 {
            self.swept = self.step;
        }
        Ok(true)
    }

    /// What the process has under way is given up, and the others see it: otherwise the collector waits
    /// for that for minutes.
    pub(super) fn rest(&mut self, member: usize) -> Result<(), Fault> {
        self.member(member)?.give_up();
        self.store(member)?.keep_up().map_err(failed("keeping up"))
    }

    pub(super) fn collect(&mut self, member: usize) -> Result<(), Fault> {
        if self.site.is_shared() {
            (0..self.members.len()).try_for_each(|member| self.rest(member))?;
        }
        let op = |what| Op { what, member: member as u8, a: 4, b: 1 };
        let store = self.store(member)?;
        store.keep_up().map_err(failed("keeping up"))?;
        for what in [What::Seal, What::Live, What::MarkAll, What::Condemn] {
            self.act(member, &op(what))?;
        }
        for what in [What::Live, What::MarkAll, What::Sweep] {
            self.act(member, &op(what))?;
        }
        Ok(())
    }

    pub(super) fn damage(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let records = &POOL[pool::pick(a)].records;
        let Some((digest, _)) = records.get(usize::from(b) % records.len().max(1)) else {
            return Ok(());
        };
        let store = self.store(member)?;
        let found = store.locate(Kind::Chunk, digest).map_err(failed("locating a chunk"))?;
        let Some(location) = found else { return Ok(()) };
        store.mark_damaged(digest, &location).map_err(failed("noting that a chunk is damaged"))?;
        self.damaged.insert(*digest, self.step);
        self.mending.remove(digest);
        self.ever_damaged = true;
        self.sent.remove(digest);
        for member in self.members.iter().flatten() {
            member.store.keep_up().map_err(failed("keeping up"))?;
        }
        Ok(())
    }
}
