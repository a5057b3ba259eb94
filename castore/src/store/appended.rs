//! Opening a store whose packs take appends: their torn tails are cut off, and what they hold beyond
//! what the index has seen is replayed.

use std::path::Path;
use std::sync::Arc;

use super::open::at;
use super::replay::{self, FactAt};
use super::{OpenProgress, StoreError};
use crate::bytes::PackBackend;
use crate::facts;
use crate::index::Index;
use crate::locations::Locations;
use crate::log::Leftover;
use crate::pack::{Footer, Kind, PackError, PackId, recover, whole};
use crate::packs::Packs;

pub(super) struct Opened {
    pub locations: Arc<Locations>,
    pub leftovers: Vec<Leftover>,
}

/// A sealed pack of whose footer only the last frame has been read.
struct Sealed {
    id: PackId,
    slot: u32,
    footer: Footer,
}

pub(super) fn open(
    packs: &Arc<Packs>,
    index: &dyn Index,
    places: &Path,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<Opened, StoreError> {
    let (sealed, mut leftovers) = find_packs(&**packs.backend(), packs)?;
    let applied = facts::applied(index)?;
    let locations = Locations::open(places, packs.clone(), true);
    let locations = Arc::new(locations.map_err(at("cannot open", places))?);
    let mut facts = Vec::new();
    load_footers(packs, &locations, &sealed, applied, &mut facts, progress)?;
    for leftover in &leftovers {
        locations.add_recent(leftover.slot, &leftover.rows);
        let pack = packs.id_of(leftover.slot)?;
        let rows = leftover.rows.iter().filter(|row| row.kind == Kind::Facts);
        facts.extend(rows.map(|row| FactAt { pack, row: *row }));
    }
    let facts = replay::order_all(packs, &facts)?;
    let last = replay::replay(packs, index, applied, facts, progress)?;
    for leftover in &mut leftovers {
        leftover.last_sequence = last;
    }
    Ok(Opened { locations, leftovers })
}

/// Gives every pack a slot; cuts the torn tail off unsealed ones.
fn find_packs(
    backend: &dyn PackBackend,
    packs: &Packs,
) -> Result<(Vec<Sealed>, Vec<Leftover>), StoreError> {
    let (mut sealed, mut leftovers) = (Vec::new(), Vec::new());
    for listed in backend.list()? {
        let id = listed.id;
        let pack = backend.open(id, listed.sealed).map_err(PackError::io_in(id))?;
        let len = pack.len().map_err(PackError::io_in(id))?;
        if listed.sealed {
            let footer = whole::trailer(id, &*pack, len)?;
            sealed.push(Sealed { id, slot: packs.add(id, true, None), footer });
            continue;
        }
        let found = recover(id, len, |offset, buffer| pack.read_at(offset, buffer));
        let Some(found) = found.map_err(PackError::io_in(id))? else {
            // Not even its start was written: it never held anything.
            backend.discard(id).map_err(PackError::io_in(id))?;
            continue;
        };
        if found.end < len && !found.sealed {
            let torn = len - found.end;
            tracing::warn!(pack = %id, bytes = torn, "cutting off an unfinished write");
        }
        let pack = backend.reopen(id, found.end).map_err(PackError::io_in(id))?;
        // The records may never have been synced, and are about to be built on.
        pack.sync().map_err(PackError::io_in(id))?;
        let slot = packs.add(id, false, Some(pack.clone()));
        let (end, rows) = (found.end, found.rows);
        leftovers.push(Leftover { slot, pack, end, rows, last_sequence: 0 });
    }
    leftovers.sort_by_key(|leftover| std::cmp::Reverse(leftover.end));
    Ok((sealed, leftovers))
}

/// Reads the footers that no segment covers yet, and finds the facts the index has not seen.
fn load_footers(
    packs: &Packs,
    locations: &Locations,
    sealed: &[Sealed],
    applied: u64,
    replay: &mut Vec<FactAt>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<(), StoreError> {
    let covered = locations.covered();
    let news = |pack: &Sealed| pack.footer.facts > 0 && pack.footer.last_sequence > applied;
    let wanted: Vec<&Sealed> =
        sealed.iter().filter(|pack| !covered.contains(&pack.slot) || news(pack)).collect();
    let total = wanted.len() as u64;
    for (done, pack) in (1..).zip(wanted) {
        let reader = packs.get(pack.slot).map_err(PackError::io_in(pack.id))?;
        let rows = whole::rows_of(pack.id, &*reader, &pack.footer)?;
        if news(pack) {
            let facts = rows.iter().filter(|row| row.kind == Kind::Facts);
            replay.extend(facts.map(|row| FactAt { pack: pack.id, row: *row }));
        }
        if !covered.contains(&pack.slot) {
            locations.load_footer(pack.slot, pack.footer.rows_at, &rows)?;
        }
        progress(OpenProgress::Rebuilding { done, total });
    }
    Ok(())
}
