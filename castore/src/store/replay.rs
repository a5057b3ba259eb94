//! Replaying facts: what the log holds and the index has not seen, in the order of their numbers.

use std::io;

use super::{OpenProgress, StoreError};
use crate::facts::{self, ReplayError, Sequences};
use crate::index::Index;
use crate::pack::{FrameDecoder, PackId, Row, whole};
use crate::packs::Packs;

/// Records that are given to the index at once.
const AT_ONCE: usize = 500;

/// A record of facts to replay.
#[derive(Clone, Copy)]
pub(super) struct FactAt {
    pub pack: PackId,
    pub row: Row,
}

/// A record's sequence number, where it lies, and the numbers it declares void.
pub(super) struct Ordered {
    pub sequence: u64,
    pub at: FactAt,
    pub void: Vec<Sequences>,
}

fn broken(error: ReplayError) -> StoreError {
    match error {
        ReplayError::Index(error) => StoreError::Index(error),
        error => StoreError::Io(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// Reads what a record says of its place.
pub(super) fn order(plain: &[u8], at: FactAt) -> Result<Ordered, StoreError> {
    let (sequence, void) = facts::order_of(plain).map_err(broken)?;
    Ok(Ordered { sequence, at, void })
}

fn read(packs: &Packs, at: &FactAt, decoder: &mut FrameDecoder) -> Result<Vec<u8>, StoreError> {
    let FactAt { pack, row } = at;
    // Packs of facts alone have no slot.
    let opened = match packs.slot_of(*pack) {
        Some(slot) => packs.get(slot),
        None => packs.backend().open(*pack, true),
    };
    let opened = opened?;
    Ok(whole::record(*pack, &*opened, row, decoder)?)
}

/// Reads the numbers of records. First only these: the facts of a large store do not fit into
/// memory together.
pub(super) fn order_all(packs: &Packs, facts: &[FactAt]) -> Result<Vec<Ordered>, StoreError> {
    let mut decoder = FrameDecoder::new()?;
    facts.iter().map(|at| order(&read(packs, at, &mut decoder)?, *at)).collect()
}

/// Replays what the index has not seen, in order; returns the last sequence number there is.
pub(super) fn replay(
    packs: &Packs,
    index: &dyn Index,
    applied: u64,
    mut facts: Vec<Ordered>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<u64, StoreError> {
    let void: Vec<Sequences> = facts.iter().flat_map(|fact| fact.void.clone()).collect();
    let numbers = facts.iter().map(|fact| fact.sequence).chain(void.iter().map(|void| void.last));
    let last = numbers.max().unwrap_or_default().max(applied);
    facts.retain(|fact| {
        fact.sequence > applied && !void.iter().any(|void| void.contains(fact.sequence))
    });
    facts.sort_unstable_by_key(|fact| fact.sequence);
    let (total, mut done) = (facts.len() as u64, 0);
    let mut decoder = FrameDecoder::new()?;
    for group in facts.chunks(AT_ONCE) {
        let records: Result<Vec<Vec<u8>>, StoreError> =
            group.iter().map(|fact| read(packs, &fact.at, &mut decoder)).collect();
        facts::replay_all(index, &records?).map_err(broken)?;
        done += group.len() as u64;
        progress(OpenProgress::Replaying { done, total });
    }
    Ok(last)
}
