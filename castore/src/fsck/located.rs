//! The index against the packs: each knows the other's, and every record is found where it lies.

use std::collections::HashSet;
use std::io;

use super::Problem;
use super::pack::Checker;
use crate::bytes::PackBackend;
use crate::pack::{PackId, Row};
use crate::store::{Store, StoreError};

/// Looks every record of a pack up. One that is found in another pack has a copy there, and is as
/// good as found.
pub(super) fn check(
    store: &Store,
    pack: PackId,
    mut rows: Vec<Row>,
    checker: &mut Checker,
) -> Result<(), StoreError> {
    let Some(slot) = store.packs().slot_of(pack) else {
        return Ok(()); // `compare` says so once, which is enough.
    };
    rows.sort_by_key(Row::key);
    let (mut unlocated, mut misplaced) = (0, 0);
    for same in rows.chunk_by(|a, b| a.key() == b.key()) {
        let Some(row) = same.first() else { continue };
        let location = match store.locate(row.kind, &row.digest) {
            Ok(location) => location,
            // A table of the index has rotted.
            Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        let lies_there = |location: crate::Location| {
            location.pack != slot
                || same.iter().any(|row| {
                    (row.offset, row.stored, row.plain)
                        == (location.offset, location.stored, location.plain)
                })
        };
        match location {
            None => unlocated += 1,
            Some(location) if !lies_there(location) => misplaced += 1,
            Some(_) => {}
        }
    }
    if unlocated > 0 {
        checker.problems.push(Problem::Unlocated { pack, records: unlocated });
    }
    if misplaced > 0 {
        checker.problems.push(Problem::Misplaced { pack, records: misplaced });
    }
    Ok(())
}

/// Holds the packs that the index knows against those that are there. Others may write and compact
/// meanwhile, so a pack counts as missing or unknown only if it was so before and still is. Returns
/// the unknown ones.
pub(super) fn compare(
    store: &Store,
    backend: &dyn PackBackend,
    known: HashSet<PackId>,
    listed: HashSet<PackId>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<PackId>, StoreError> {
    let packs = store.packs();
    if known.is_subset(&listed) && listed.iter().all(|id| packs.slot_of(*id).is_some()) {
        return Ok(Vec::new());
    }
    let now: HashSet<PackId> = backend.list()?.into_iter().map(|listed| listed.id).collect();
    let still_known = packs.sealed_ids();
    let mut unknown: Vec<PackId> = listed
        .iter()
        .filter(|id| packs.slot_of(**id).is_none() && now.contains(id))
        .copied()
        .collect();
    let mut missing: Vec<PackId> = known
        .iter()
        .filter(|id| !listed.contains(id) && !now.contains(id) && still_known.contains(id))
        .copied()
        .collect();
    unknown.sort_unstable();
    missing.sort_unstable();
    problems.extend(missing.into_iter().map(|pack| Problem::PackMissing { pack }));
    Ok(unknown)
}
