//! Scrubbing: every byte of every sealed pack is read, slowly, and what is damaged is marked.
//!
//! Packs are read in the order of their names. The name of the last one that was read is remembered in
//! the index, so that a scrub that was stopped goes on behind it. Packs that come meanwhile are read in
//! this pass or in the next.

use std::io;

use super::{Checker, Depth, Problem, is_out_of_reach, measure, open};
use crate::gc::Pace;
use crate::pack::PackId;
use crate::store::{Place, Store, StoreError};

/// In the index only: the name of the last pack that was read.
const POSITION: &[u8] = b"scrub/position";

/// How far a scrub has come in its pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Packs that are read, those of an earlier run included.
    pub packs: u64,
    /// Packs in all.
    pub packs_total: u64,
    /// Bytes of packs that are read.
    pub bytes: u64,
    /// Bytes of packs in all.
    pub bytes_total: u64,
}

/// What a scrub found.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// Whether the pass is at its end.
    pub finished: bool,
    /// Packs that were read by this run.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their records.
    pub records: u64,
    /// Records that were found damaged, and were not known to be.
    pub damaged: u64,
    /// Records that were known to be damaged, and are whole again.
    pub restored: u64,
    /// Packs that are gone.
    pub lost: Vec<PackId>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Reads all sealed packs at that pace, and marks what is damaged. Goes on behind where an earlier
    /// scrub was stopped if `resume` says so. Threads that decode and hash: 0 for one per core. Blocks.
    pub fn scrub(
        &self,
        resume: bool,
        threads: usize,
        pace: &mut Pace<'_>,
        progress: &mut dyn FnMut(ScrubProgress),
    ) -> Result<Scrubbed, StoreError> {
        let mut scrubbed = Scrubbed { lost: self.lose_packs()?, ..Scrubbed::default() };
        let lost = scrubbed.lost.iter().map(|pack| Problem::PackMissing { pack: *pack });
        scrubbed.problems.extend(lost);
        // Once those that were lost are known, what is marked and can be read may have been put back.
        scrubbed.restored = self.recheck_damaged()?;
        let mut packs = measure(&**self.packs().backend())?;
        packs.retain(|(listed, _)| listed.sealed);
        packs.sort_unstable_by_key(|(listed, _)| listed.id);
        let done = if resume { self.scrub_position()? } else { None };
        let mut news = ScrubProgress {
            packs_total: packs.len() as u64,
            bytes_total: packs.iter().map(|(_, len)| len).sum(),
            ..ScrubProgress::default()
        };
        let mut checker = Checker::new(Depth::Contents, threads)?;
        for (listed, len) in packs {
            let before = news.bytes;
            if done.is_none_or(|done| listed.id > done) {
                if pace.is_over() {
                    return Ok(scrubbed);
                }
                let read = &mut |read| {
                    news.bytes += read;
                    progress(news);
                    pace.spend(read);
                    if pace.is_over() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
                };
                match open(&**self.packs().backend(), &listed) {
                    Ok(Some(subject)) => {
                        match checker.check(&subject, read) {
                            Ok(_) => {}
                            // It is read again from its start the next time.
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                                return Ok(scrubbed);
                            }
                            Err(error) => return Err(error.into()),
                        }
                        scrubbed.packs += 1;
                        scrubbed.bytes += subject.len;
                    }
                    // It was collected meanwhile.
                    Ok(None) => {}
                    Err(error) if is_out_of_reach(&error) => return Err(error.into()),
                    Err(source) => {
                        checker.problems.push(Problem::Unreadable { pack: listed.id, source });
                    }
                }
                scrubbed.records += std::mem::take(&mut checker.records);
                let mut problems = std::mem::take(&mut checker.problems);
                let damage = std::mem::take(&mut checker.damage);
                if !problems.is_empty() {
                    // What a whole place reads as says nothing of what lies in it.
                    self.reach(Place::Packs)?;
                    if self.was_removed(listed.id)? {
                        problems.clear();
                    } else {
                        scrubbed.damaged += self.mark_all_damaged(&damage)?;
                    }
                }
                scrubbed.problems.append(&mut problems);
                checker.sequences.clear();
                self.remember(POSITION, listed.id.as_bytes())?;
            }
            news.packs += 1;
            news.bytes = before + len;
            progress(news);
        }
        self.forget_all(&[POSITION.to_vec()])?;
        scrubbed.finished = true;
        Ok(scrubbed)
    }

    /// The last pack that a scrub has read which was stopped; `None` where none was.
    pub fn scrub_position(&self) -> Result<Option<PackId>, StoreError> {
        let position = self.derived(POSITION)?;
        Ok(position.and_then(|id| id.try_into().ok()).map(PackId::from_bytes))
    }
}
