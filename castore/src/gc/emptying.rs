//! Copying what is needed of a condemned pack.

use std::io;

use super::{Live, Pace, is_sound};
use crate::Digest;
use crate::log::Run;
use crate::pack::{Footer, HEADER_LEN, Kind, PackError, PackId, RecordHeader, Row, whole};
use crate::packs::Standing;
use crate::store::{Store, StoreError};

use super::sweep::Swept;

/// Bytes read and appended at once.
const RUN: u64 = 4 * 1024 * 1024;
/// Records that lie no further apart are read together.
const MAX_GAP: u64 = 64 * 1024;
/// Bytes that are appended at once, while all others that write have to wait.
const APPENDED: usize = 1024 * 1024;
/// Where packs take appends, so many bytes are copied before the disk has to have them: a commit waits for
/// what lies in the same pack, whoever wrote it.
const UNSYNCED: u64 = 32 * 1024 * 1024;

/// What is copied, on its way to the log.
pub(super) struct Copies<'a> {
    store: &'a Store,
    run: Run,
    /// The highest sequence number of the facts in it, if there are any.
    last_sequence: u64,
    unsynced: u64,
    /// What is needed and damaged, so that it goes with its pack.
    pub left_behind: Vec<(Kind, Digest)>,
}

impl<'a> Copies<'a> {
    pub fn new(store: &'a Store) -> Self {
        let (run, left_behind) = (Run::default(), Vec::new());
        Self { store, run, last_sequence: 0, unsynced: 0, left_behind }
    }

    fn add(&mut self, row: &Row, record: &[u8]) -> Result<(), StoreError> {
        self.run.rows.push(Row { offset: self.run.bytes.len() as u64, ..*row });
        self.run.bytes.extend_from_slice(record);
        if self.run.bytes.len() >= APPENDED { self.append() } else { Ok(()) }
    }

    fn append(&mut self) -> Result<(), StoreError> {
        if self.run.rows.is_empty() {
            return Ok(());
        }
        // Whether they are needed was looked up a moment ago.
        let appended = self.store.append_missing(&self.run, self.last_sequence);
        self.unsynced += self.run.bytes.len() as u64;
        self.run.clear();
        self.last_sequence = 0;
        appended?;
        if self.unsynced >= UNSYNCED && !self.store.is_far() {
            self.store.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

/// A pack of which everything that is needed has been copied.
pub(super) struct Emptied {
    pub id: PackId,
    pub len: u64,
}

impl Emptied {
    /// Nothing of it is there any more.
    fn gone(id: PackId) -> Self {
        Self { id, len: 0 }
    }
}

impl Store {
    /// Copies what is needed of a pack. `None` if that was given up.
    pub(super) fn empty(
        &self,
        id: PackId,
        live: &Live,
        copies: &mut Copies<'_>,
        pace: &mut Pace<'_>,
        swept: &mut Swept,
    ) -> Result<Option<Emptied>, StoreError> {
        let Some(slot) = self.packs().slot_of(id) else {
            // Removed for everybody else, and its process ended before the rest.
            return Ok(Some(Emptied::gone(id)));
        };
        if self.is_told_to_be_gone(slot) {
            // The same, or the place did not remove it. What was needed of it has been copied.
            return Ok(Some(Emptied::gone(id)));
        }
        match self.empty_there(id, slot, live, copies, pace, swept) {
            Err(error) if is_absent(&error, id) && self.is_pack_lost(slot)? => {
                self.empty_lost(id, slot, live, copies, swept)
            }
            emptied => emptied,
        }
    }

    /// Whether everybody has been told that the pack is removed. Where nobody has to be told, one that is
    /// gone may still be there, and be needed.
    fn is_told_to_be_gone(&self, slot: u32) -> bool {
        self.registry().is_some() && self.packs().standing(slot) == Standing::Gone
    }

    fn empty_there(
        &self,
        id: PackId,
        slot: u32,
        live: &Live,
        copies: &mut Copies<'_>,
        pace: &mut Pace<'_>,
        swept: &mut Swept,
    ) -> Result<Option<Emptied>, StoreError> {
        let in_pack = PackError::io_in(id);
        let pack = self.packs().get(slot).map_err(in_pack)?;
        let len = pack.len().map_err(PackError::io_in(id))?;
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

    /// The same for a pack that is not there, and of which nobody said that it is removed. It may be put
    /// back, so it is not forgotten for as long as something is needed that no other pack has. Claims say
    /// nothing that is not known without the pack.
    fn empty_lost(
        &self,
        id: PackId,
        slot: u32,
        live: &Live,
        copies: &mut Copies<'_>,
        swept: &mut Swept,
    ) -> Result<Option<Emptied>, StoreError> {
        if self.registry().is_none() {
            // The next start does not find it, and takes it for what it is if it has been put back.
            return Ok(Some(Emptied::gone(id)));
        }
        let mut needed = Vec::new();
        self.locations().each_row(&mut |digest, location| {
            if location.pack == slot && live.may_need(digest, location.kind) {
                needed.push((*digest, location.kind));
            }
        })?;
        let mut lost = 0;
        for (digest, kind) in needed {
            if self.locations().kept(&digest, kind)?.is_some() {
                continue;
            }
            let claim = (kind == Kind::Claim).then(|| RecordHeader::seal(kind, digest, 0, &[]));
            let Some(claim) = claim.flatten() else {
                lost += 1;
                continue;
            };
            let row = Row { digest, kind, pack: 0, offset: 0, stored: 0, plain: 0 };
            copies.add(&row, &claim.to_bytes())?;
            swept.moved += HEADER_LEN as u64;
        }
        copies.append()?;
        if lost == 0 {
            return Ok(Some(Emptied::gone(id)));
        }
        tracing::error!(pack = %id, records = lost, "a pack is gone with something that is needed");
        swept.waiting += 1;
        Ok(None)
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
                    copies.left_behind.push((row.kind, row.digest));
                    swept.damaged += 1;
                    continue;
                }
            }
            if row.kind == Kind::Facts {
                copies.last_sequence = footer.last_sequence;
            }
            copies.add(row, record)?;
            copied += record.len() as u64;
        }
        copies.append()?;
        Ok(copied)
    }
}

/// Whether the error says that this pack is not there.
fn is_absent(error: &StoreError, id: PackId) -> bool {
    matches!(error, StoreError::Pack(PackError::Io { pack, source })
        if *pack == id && source.kind() == io::ErrorKind::NotFound)
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
