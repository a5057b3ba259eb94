//! Opening a store whose packs are objects elsewhere.
//!
//! The index's registry says which packs there are. What is looked up in them is kept here, as
//! segments made of their footers, so a start reads the footers of the packs that are new to this
//! machine. An index that is not complete is made from all the objects that there are.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::open::at;
use super::parallel::on_many;
use super::replay::{self, FactAt, Ordered};
use super::{OpenProgress, StoreError};
use crate::bytes::Listed;
use crate::facts;
use crate::index::{Batch, Held, Index};
use crate::locations::Locations;
use crate::pack::{FrameDecoder, Kind, PackError, Row, whole};
use crate::packs::Packs;
use crate::registry::{Entry, Registry};

/// Index key that says that everything in the packs is in the index.
const COMPLETE_KEY: &[u8] = b"m/complete";

pub(super) struct Opened {
    pub locations: Arc<Locations>,
    pub registry: Arc<Registry>,
}

pub(super) fn open(
    packs: &Arc<Packs>,
    index: &Arc<dyn Index>,
    places: &Path,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<Opened, StoreError> {
    if index.get(COMPLETE_KEY)?.is_none() {
        // While it is made, nobody else changes it or makes it, too.
        let lock = index.shared().map(|shared| shared.lock("commit")).transpose();
        let _lock: Option<Box<dyn Held>> = lock?;
        if index.get(COMPLETE_KEY)?.is_none() {
            complete(packs, index, progress)?;
        }
    }
    let registry = Registry::new(index.clone());
    let mut entries = Vec::new();
    registry.news(|entry| {
        if !entry.is_removal() && packs.slot_of(entry.id).is_none() {
            packs.add(entry.id, true, None);
            entries.push(entry);
        }
        Ok::<_, StoreError>(())
    })?;
    let locations = Locations::open(places, packs.clone(), false);
    let locations = Arc::new(locations.map_err(at("cannot open", places))?);
    let covered = locations.covered();
    let covered = |id| packs.slot_of(id).is_some_and(|slot| covered.contains(&slot));
    entries.retain(|entry| !covered(entry.id));
    let (total, mut done) = (entries.len() as u64, 0);
    on_many(
        &entries,
        |entry| rows_of(packs, entry),
        |entry, rows| {
            if let (Some(slot), Some(rows)) = (packs.slot_of(entry.id), rows) {
                locations.load_footer(slot, entry.rows_at, &rows)?;
            }
            done += 1;
            progress(OpenProgress::Rebuilding { done, total });
            Ok(())
        },
    )?;
    Ok(Opened { locations, registry: Arc::new(registry) })
}

/// The rows of a registered pack; `None` for one that is gone, which is not everybody's end.
pub(super) fn rows_of(packs: &Packs, entry: &Entry) -> Result<Option<Vec<Row>>, StoreError> {
    let Entry { id, len, .. } = *entry;
    let read = || {
        let pack = packs.backend().open(id, true).map_err(PackError::io_in(id))?;
        whole::rows(id, &*pack, len)
    };
    match read() {
        Ok((_, rows)) => Ok(Some(rows)),
        Err(PackError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            tracing::error!(pack = %id, "a pack is gone: granary fsck says what is lost with it");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// What an object turned out to hold.
struct Found {
    /// For the registry, unless it holds facts alone.
    entry: Option<Entry>,
    facts: Vec<Ordered>,
}

/// Makes the index of all the objects that there are.
fn complete(
    packs: &Arc<Packs>,
    index: &Arc<dyn Index>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<(), StoreError> {
    let backend = packs.backend();
    let listed = backend.list()?;
    let registry = Registry::new(index.clone());
    let mut facts = Vec::new();
    let (total, mut done) = (listed.len() as u64, 0);
    on_many(
        &listed,
        |listed| look_into(packs, listed),
        |_, found| {
            if let Some(entry) = found.entry {
                registry.add(&entry)?;
            }
            facts.extend(found.facts);
            done += 1;
            progress(OpenProgress::Rebuilding { done, total });
            Ok(())
        },
    )?;
    let applied = facts::applied(&**index)?;
    let last = replay::replay(packs, &**index, applied, facts, progress)?;
    if last > 0 {
        facts::set_applied(&**index, last)?;
    }
    let mut batch = Batch::default();
    batch.put(COMPLETE_KEY, *b"1");
    Ok(index.apply(&batch)?)
}

fn look_into(packs: &Packs, listed: &Listed) -> Result<Found, StoreError> {
    let id = listed.id;
    let pack = packs.backend().open(id, true).map_err(PackError::io_in(id))?;
    let len = match listed.len {
        Some(len) => len,
        None => pack.len().map_err(PackError::io_in(id))?,
    };
    let (footer, rows) = whole::rows(id, &*pack, len)?;
    let entry = Entry { id, len, rows_at: footer.rows_at, rows: footer.rows };
    let mut facts = Vec::new();
    let mut decoder = FrameDecoder::new()?;
    for row in rows.iter().filter(|row| row.kind == Kind::Facts) {
        let plain = whole::record(id, &*pack, row, &mut decoder)?;
        facts.push(replay::order(&plain, FactAt { pack: id, row: *row })?);
    }
    let entry = (footer.rows > footer.facts).then_some(entry);
    Ok(Found { entry, facts })
}
