//! Where packs are objects: many small packs of facts become one, and packs that nobody ever registered
//! are removed.
//!
//! Each commit leaves a pack of facts, so there are as many of them as there were commits; a rebuild reads
//! them all. Their records are put together as they are. A pack whose last number is not applied yet may
//! still be somebody's reservation, and is left alone.
//!
//! A pack of chunks that its server stored and could not register any more was never acknowledged. It may
//! also be one that is about to be registered, so it is noted when it is first seen:
//!
//! ```text
//! "y" pack(16) -> seconds since 1970(8, big-endian)
//! ```

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use super::is_sound;
use crate::bytes::Durability;
use crate::index::{Batch, each_pair, number};
use crate::log::Run;
use crate::pack::{Footer, HEADER_LEN, Kind, PackError, PackId, Row, whole};
use crate::store::{Store, StoreError};

const STRAY_PREFIX: u8 = b'y';
/// So many packs of facts become one.
const TOGETHER: usize = 32;
/// A pack of facts is not added to beyond this length.
const FULL: u64 = 32 * 1024 * 1024;
/// How long a pack must have been nobody's, whatever the grace period is.
const STRAY: Duration = Duration::from_secs(24 * 3600);

/// What was put in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Packs of facts that were put together.
    pub merged: u64,
    /// Packs of that kind that there are now.
    pub facts: u64,
    /// Packs that nobody knew and that were removed.
    pub strays: u64,
}

/// A pack that the registry does not have.
struct Unregistered {
    id: PackId,
    len: u64,
    footer: Footer,
}

impl Store {
    /// Puts packs of facts together and removes strays. One process at a time may do this.
    pub fn tidy_objects(&self) -> Result<Tidied, StoreError> {
        let mut tidied = Tidied::default();
        if self.packs().backend().durability() != Durability::Sealed {
            return Ok(tidied);
        }
        // What is applied now has ended for its writer, whatever is listed later.
        let applied = self.last_sequence()?;
        let unregistered = self.unregistered()?;
        let (facts, strays): (Vec<_>, Vec<_>) =
            unregistered.into_iter().partition(|pack| pack.footer.facts == pack.footer.rows);
        tidied.facts = facts.len() as u64;
        let small = facts
            .into_iter()
            .filter(|pack| pack.len < FULL && pack.footer.last_sequence <= applied);
        let mut small: Vec<_> = small.collect();
        // The smallest first: one that is nearly full has no room for others, and must not keep them from
        // becoming one. Whoever replays them goes by the records' numbers.
        small.sort_unstable_by_key(|pack| pack.len);
        if small.len() >= TOGETHER {
            let merged = self.merge_facts(&small)?;
            tidied.merged = merged.len() as u64;
            tidied.facts -= tidied.merged - u64::from(!merged.is_empty());
        }
        tidied.strays = self.remove_strays(&strays)?;
        Ok(tidied)
    }

    fn unregistered(&self) -> Result<Vec<Unregistered>, StoreError> {
        let backend = self.packs().backend();
        let listed = backend.list()?;
        // Those that were registered while the list was made are known after this.
        self.catch_up()?;
        let mut found = Vec::new();
        for listed in listed.iter().filter(|listed| self.packs().slot_of(listed.id).is_none()) {
            let id = listed.id;
            let read = || {
                let pack = backend.open(id, true).map_err(PackError::io_in(id))?;
                let len = match listed.len {
                    Some(len) => len,
                    None => pack.len().map_err(PackError::io_in(id))?,
                };
                Ok::<_, PackError>(Unregistered {
                    id,
                    len,
                    footer: whole::trailer(id, &*pack, len)?,
                })
            };
            match read() {
                Ok(pack) => found.push(pack),
                Err(PackError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(PackError::Damaged { .. }) => {
                    tracing::warn!(pack = %id, "a pack is damaged: granary fsck tells more");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Puts packs of facts together. Returns those whose records lie in the new one.
    fn merge_facts(&self, packs: &[Unregistered]) -> Result<Vec<PackId>, StoreError> {
        let backend = self.packs().backend();
        let (mut run, mut merged, mut last) = (Run::default(), Vec::new(), 0);
        for Unregistered { id, len, footer } in packs {
            // Those that follow are no smaller.
            if run.bytes.len() as u64 + len > FULL {
                break;
            }
            let in_pack = PackError::io_in(*id);
            let pack = backend.open(*id, true).map_err(in_pack)?;
            let rows = match whole::rows_of(*id, &*pack, footer) {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "a pack of facts is left as it is");
                    continue;
                }
            };
            let before = (run.bytes.len(), run.rows.len());
            if !append_facts(&mut run, *id, &*pack, rows)? {
                run.bytes.truncate(before.0);
                run.rows.truncate(before.1);
                continue;
            }
            last = last.max(footer.last_sequence);
            merged.push(*id);
        }
        if merged.len() < TOGETHER {
            return Ok(Vec::new());
        }
        let id = PackId::random()?;
        backend.put(id, whole::seal(id, &run, last)?)?;
        for id in &merged {
            backend.remove(*id).map_err(PackError::io_in(*id))?;
        }
        Ok(merged)
    }

    fn remove_strays(&self, strays: &[Unregistered]) -> Result<u64, StoreError> {
        let key = |id: &PackId| [&[STRAY_PREFIX][..], id.as_bytes()].concat();
        let (mut removed, mut batch) = (0, Batch::default());
        let there: HashSet<Vec<u8>> = strays.iter().map(|pack| key(&pack.id)).collect();
        each_pair(&*self.index, &[STRAY_PREFIX], |noted, _| {
            if !there.contains(&noted) {
                batch.remove(noted);
            }
            Ok(())
        })?;
        for pack in strays {
            let key = key(&pack.id);
            let now = self.now();
            match self.index.get(&key)?.map(|since| number(Some(&since))) {
                Some(since) if since <= self.clock.ago(STRAY) => {
                    let backend = self.packs().backend();
                    backend.remove(pack.id).map_err(PackError::io_in(pack.id))?;
                    batch.remove(key);
                    removed += 1;
                }
                Some(since) if since <= now => {}
                // It is seen for the first time, or was when a clock was ahead.
                _ => {
                    batch.put(key, now.to_be_bytes());
                }
            }
        }
        self.index.apply(&batch)?;
        Ok(removed)
    }
}

/// Appends the records of a pack as they are. False when one of them is damaged.
fn append_facts(
    run: &mut Run,
    id: PackId,
    pack: &dyn crate::bytes::ReadPack,
    mut rows: Vec<Row>,
) -> Result<bool, StoreError> {
    rows.sort_unstable_by_key(|row| row.offset);
    for row in rows.into_iter().filter(|row| row.kind == Kind::Facts) {
        let mut record = vec![0; HEADER_LEN + row.stored as usize];
        pack.read_at(row.offset, &mut record).map_err(PackError::io_in(id))?;
        if !is_sound(&row, &record) {
            tracing::warn!(pack = %id, "a pack of facts is damaged: granary fsck tells more");
            return Ok(false);
        }
        run.rows.push(Row { offset: run.bytes.len() as u64, ..row });
        run.bytes.extend_from_slice(&record);
    }
    Ok(true)
}
