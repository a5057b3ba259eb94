//! Sweeping: what is needed of condemned packs moves, and the packs are removed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Live, Pace, ago, condemned::Condemned, is_sound};
use crate::log::Run;
use crate::pack::{Footer, HEADER_LEN, Kind, PackError, PackId, RecordHeader, Row, whole};
use crate::store::{Store, StoreError};

/// Bytes read and appended at once.
const RUN: u64 = 4 * 1024 * 1024;
/// Records that lie no further apart are read together.
const MAX_GAP: u64 = 64 * 1024;
/// So many bytes are copied before they are made durable, and the packs they come from removed: how much
/// more room a sweep takes, and how much of it a crash undoes.
const BATCH: u64 = 256 * 1024 * 1024;
/// Bytes that are appended at once, while all others that write have to wait.
const APPENDED: usize = 1024 * 1024;
/// Where packs take appends, so many bytes are copied before the disk has to have them: a commit waits for
/// what lies in the same pack, whoever wrote it.
const UNSYNCED: u64 = 32 * 1024 * 1024;

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
    /// Condemned packs whose time has not come: the grace period, or an upload that began before.
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

/// What is copied, on its way to the log.
struct Copies<'a> {
    store: &'a Store,
    run: Run,
    /// The highest sequence number of the facts in it, if there are any.
    last_sequence: u64,
    unsynced: u64,
}

impl Copies<'_> {
    fn append(&mut self) -> Result<(), StoreError> {
        if self.run.rows.is_empty() {
            return Ok(());
        }
        // Whether they are needed was looked up a moment ago.
        self.store.append_missing(&self.run, self.last_sequence)?;
        self.unsynced += self.run.bytes.len() as u64;
        self.run.clear();
        self.last_sequence = 0;
        if self.unsynced >= UNSYNCED && !self.store.is_far() {
            self.store.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// A pack of which everything that is needed has been copied.
struct Emptied {
    id: PackId,
    len: u64,
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
        let due = ago(grace);
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
        let (mut emptied, mut copied) = (Vec::new(), 0);
        let mut copies = Copies { store: self, run: Run::default(), last_sequence: 0, unsynced: 0 };
        for (done, condemned) in (0..).zip(packs) {
            progress(done, total);
            if pace.is_over() {
                break;
            }
            let before = swept.moved;
            if let Some(pack) =
                self.empty(condemned.pack, live, &mut copies, &mut pace, &mut swept)?
            {
                emptied.push(pack);
            }
            copied += swept.moved - before;
            if copied >= BATCH {
                self.remove_emptied(std::mem::take(&mut emptied), &mut swept)?;
                copied = 0;
            }
        }
        self.remove_emptied(emptied, &mut swept)?;
        progress(total, total);
        Ok(swept)
    }

    /// Copies what is needed of a pack. `None` if that was given up.
    fn empty(
        &self,
        id: PackId,
        live: &Live,
        copies: &mut Copies<'_>,
        pace: &mut Pace<'_>,
        swept: &mut Swept,
    ) -> Result<Option<Emptied>, StoreError> {
        let in_pack = PackError::io_in(id);
        let Some(slot) = self.packs().slot_of(id) else {
            // Removed for everybody else, and its process ended before the rest.
            return Ok(Some(Emptied { id, len: 0 }));
        };
        let pack = match self.packs().get(slot) {
            Ok(pack) => pack,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Emptied { id, len: 0 }));
            }
            Err(error) => return Err(in_pack(error).into()),
        };
        let len = pack.len().map_err(in_pack)?;
        let (footer, mut rows) = whole::rows(id, &*pack, len)?;
        rows.sort_unstable_by_key(|row| row.offset);
        let mut needed = Vec::new();
        for row in rows {
            let wanted = live.may_need(&row.digest, row.kind)
                && self.locations().kept(&row.digest, row.kind)?.is_none();
            if wanted {
                needed.push(row);
            }
        }
        let mut rest = &needed[..];
        while !rest.is_empty() {
            if pace.is_over() {
                return Ok(None);
            }
            let (now, later) = rest.split_at(together(rest));
            rest = later;
            swept.moved += self.copy(id, slot, now, &footer, copies, swept)?;
            pace.spend(span(now).1);
        }
        Ok(Some(Emptied { id, len }))
    }

    /// Copies records that lie together. Returns how many bytes they are.
    fn copy(
        &self,
        id: PackId,
        slot: u32,
        rows: &[Row],
        footer: &Footer,
        copies: &mut Copies<'_>,
        swept: &mut Swept,
    ) -> Result<u64, StoreError> {
        let (start, len) = span(rows);
        let pack = self.packs().get(slot).map_err(PackError::io_in(id))?;
        let mut bytes = vec![0; len as usize];
        pack.read_at(start, &mut bytes).map_err(PackError::io_in(id))?;
        let (mut copied, mut again) = (0, Vec::new());
        for row in rows {
            let from = (row.offset - start) as usize;
            let mut record = &bytes[from..from + HEADER_LEN + row.stored as usize];
            if !is_sound(row, record) {
                // It may be a cache that is at fault.
                let range = row.offset..row.offset + record.len() as u64;
                again.resize(record.len(), 0);
                pack.distrust(range);
                pack.read_at(row.offset, &mut again).map_err(PackError::io_in(id))?;
                record = &again;
                // A claim says nothing that its row does not.
                let claim = (row.kind == Kind::Claim && row.stored == 0)
                    .then(|| RecordHeader::seal(row.kind, row.digest, 0, &[]))
                    .flatten();
                if let Some(claim) = claim.filter(|_| !is_sound(row, record)) {
                    again = claim.to_bytes().to_vec();
                    record = &again;
                }
                if !is_sound(row, record) {
                    tracing::error!(pack = %id, digest = %row.digest, "a damaged record is left behind");
                    swept.damaged += 1;
                    continue;
                }
            }
            if row.kind == Kind::Facts {
                copies.last_sequence = footer.last_sequence;
            }
            copies.run.rows.push(Row { offset: copies.run.bytes.len() as u64, ..*row });
            copies.run.bytes.extend_from_slice(record);
            copied += record.len() as u64;
            if copies.run.bytes.len() >= APPENDED {
                copies.append()?;
            }
        }
        copies.append()?;
        Ok(copied)
    }

    /// Removes packs of which nothing is needed.
    fn remove_emptied(&self, packs: Vec<Emptied>, swept: &mut Swept) -> Result<(), StoreError> {
        if packs.is_empty() {
            return Ok(());
        }
        // The copies first, and whatever somebody else has stored anew instead.
        self.sync()?;
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
        self.locations().leave_out_gone()?;
        for Emptied { id, len } in packs {
            self.packs().close(id);
            self.packs().backend().remove(id).map_err(PackError::io_in(id))?;
            swept.packs += 1;
            swept.bytes += len;
        }
        self.forget_condemned(&ids)?;
        self.forget_damaged(&ids)
    }
}

/// How many of these rows, which are in the order of their offsets, are read together.
fn together(rows: &[Row]) -> usize {
    let Some(first) = rows.first() else { return 0 };
    let end = |row: &Row| row.offset + HEADER_LEN as u64 + u64::from(row.stored);
    let joins = |pair: &[Row]| {
        pair[1].offset.saturating_sub(end(&pair[0])) <= MAX_GAP
            && end(&pair[1]) - first.offset <= RUN
    };
    1 + rows.windows(2).take_while(|pair| joins(pair)).count()
}

/// Where rows that are read together start, and how many bytes that is.
fn span(rows: &[Row]) -> (u64, u64) {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return (0, 0) };
    let end = last.offset + HEADER_LEN as u64 + u64::from(last.stored);
    (first.offset, end - first.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_together_up_to_a_gap_and_a_length() {
        let row = |offset: u64, stored: u32| Row {
            digest: crate::Digest::of(&offset.to_le_bytes()),
            kind: Kind::Chunk,
            pack: 0,
            offset,
            stored,
            plain: stored,
        };
        let near = [row(0, 100), row(200, 100), row(100_000, 100)];
        assert_eq!(together(&near), 2);
        assert_eq!(span(&near[..2]), (0, 200 + 64 + 100));
        let long = [row(0, 3 << 20), row((3 << 20) + 64, 3 << 20)];
        assert_eq!(together(&long), 1);
        assert_eq!(together(&[]), 0);
    }
}
