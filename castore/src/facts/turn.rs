//! Whose turn it is to write facts, where many may write.
//!
//! Facts become durable as packs of their own, and visible when the index takes them. Between the
//! two a writer may die, or be cut off and finish later than it should. So that the order of sequence
//! numbers is the order in which the index changed, whatever happens:
//!
//! 1. A writer holds the index's lock `commit` from here to the end.
//! 2. It *reserves* its sequence numbers: the index remembers them as pending, with the name of the
//!    pack they will lie in.
//! 3. It stores the pack.
//! 4. It applies the changes and takes the reservation back, in one batch that demands that the
//!    reservation is still there.
//!
//! Who finds a reservation when it has the lock ends it for the one that left it: if the pack is
//! there its records are replayed; if not, the numbers are *void*, the next record says so, and a pack
//! that turns up later counts for nothing. Either way step 4 of the first writer fails. Who is cut off while
//! it does that finds the reservation ended by others, and starts again.

use std::io;
use std::sync::Arc;

use prost::Message;

use super::record::{Sequences, order_of, replayed};
use super::{CommitError, SEQUENCE_KEY, storage};
use crate::bytes::PackBackend;
use crate::gc::condemned::EPOCH_KEY;
use crate::index::{Batch, Index, IndexError, number};
use crate::pack::{FrameDecoder, Kind, PackId, whole};

const PENDING_KEY: &[u8] = b"m/pending";
const VOID_KEY: &[u8] = b"m/void";

/// Numbers that somebody is about to use, and the pack that their records will lie in.
#[derive(Clone, PartialEq, Message)]
struct Pending {
    #[prost(message, optional, tag = "1")]
    numbers: Option<Sequences>,
    #[prost(bytes = "vec", tag = "2")]
    pack: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Void {
    #[prost(message, repeated, tag = "1")]
    numbers: Vec<Sequences>,
}

/// What the index says when nothing is pending.
pub(super) struct Turn {
    /// The last sequence number that was given out.
    pub sequence: u64,
    /// The numbers that the next record has to declare void.
    pub void: Vec<Sequences>,
    before: [Option<Vec<u8>>; 2],
}

/// A reservation of sequence numbers.
pub(super) struct Reserved {
    value: Vec<u8>,
}

/// The numbers that the next record will declare void.
pub(crate) fn void(index: &dyn Index) -> Result<Vec<Sequences>, IndexError> {
    let found = index.get(VOID_KEY)?.unwrap_or_default();
    let damaged =
        |error: prost::DecodeError| IndexError::Engine { engine: "facts", source: Box::new(error) };
    Ok(Void::decode(&found[..]).map_err(damaged)?.numbers)
}

impl Turn {
    /// Ends what somebody else left pending, and says where things stand. The lock is held.
    pub fn take(index: &dyn Index, backend: &Arc<dyn PackBackend>) -> Result<Self, CommitError> {
        loop {
            let keys = [SEQUENCE_KEY, PENDING_KEY, VOID_KEY];
            let found = index.get_many(&keys).map_err(storage)?;
            let [sequence, pending, void]: [Option<Vec<u8>>; 3] =
                found.try_into().map_err(|_| storage(io::Error::other("the index lost a key")))?;
            let last = number(sequence.as_deref());
            let numbers = Void::decode(void.as_deref().unwrap_or_default()).map_err(storage)?;
            let Some(pending) = pending else {
                let before = [sequence, void];
                return Ok(Self { sequence: last, void: numbers.numbers, before });
            };
            let ended = end(index, &**backend, last, &pending, (sequence, void, numbers));
            match ended {
                Err(CommitError::Conflict) => continue,
                ended => ended?,
            }
        }
    }

    /// Reserves the numbers up to `last` for records in `pack`, in this epoch of the collector: it does
    /// not end before the reservation does.
    pub fn reserve(
        &self,
        index: &dyn Index,
        last: u64,
        pack: PackId,
        epoch: &Option<Vec<u8>>,
    ) -> Result<Reserved, CommitError> {
        let numbers = Some(Sequences { first: self.sequence + 1, last });
        let value = Pending { numbers, pack: pack.as_bytes().to_vec() }.encode_to_vec();
        let mut batch = Batch::default();
        let [sequence, void] = self.before.clone();
        batch.expect(SEQUENCE_KEY, sequence).expect(VOID_KEY, void).expect(PENDING_KEY, None);
        batch.expect(EPOCH_KEY, epoch.clone());
        batch.put(PENDING_KEY, value.clone());
        apply(index, &batch)?;
        Ok(Reserved { value })
    }
}

impl Reserved {
    /// Makes `batch` take the reservation back, and be refused if somebody else has done so.
    pub fn end_with(&self, batch: &mut Batch) {
        batch.expect(PENDING_KEY, Some(self.value.clone()));
        batch.remove(PENDING_KEY).remove(VOID_KEY);
    }
}

/// Makes a batch be refused while somebody has reserved numbers.
pub(super) fn expect_nothing_pending(batch: &mut Batch) {
    batch.expect(PENDING_KEY, None);
}

fn apply(index: &dyn Index, batch: &Batch) -> Result<(), CommitError> {
    index.apply(batch).map_err(|error| match error {
        IndexError::Conflict => CommitError::Conflict,
        error => storage(error),
    })
}

/// Ends a reservation that its maker has left, once or not at all.
fn end(
    index: &dyn Index,
    backend: &dyn PackBackend,
    last: u64,
    pending: &[u8],
    (sequence, void, mut voided): (Option<Vec<u8>>, Option<Vec<u8>>, Void),
) -> Result<(), CommitError> {
    let left = Pending::decode(pending).map_err(storage)?;
    let numbers = left.numbers.unwrap_or_default();
    let pack = <[u8; PackId::LEN]>::try_from(&left.pack[..]).map_err(storage)?;
    let pack = PackId::from_bytes(pack);
    let mut batch = match backend.stat(pack).map_err(storage)? {
        Some(len) => {
            tracing::warn!(%pack, "taking over a change that its writer did not finish");
            let mut records = records_of(backend, pack, len)?;
            let orders: Result<Vec<_>, _> = records.iter().map(|record| order_of(record)).collect();
            let mut orders = orders.map_err(storage)?.into_iter();
            records.retain(|_| orders.next().is_some_and(|(number, _)| number > last));
            replayed(index, &records).map_err(storage)?
        }
        None => {
            tracing::warn!(%pack, "giving up a change that its writer did not store");
            voided.numbers.push(numbers);
            let mut batch = Batch::default();
            batch.expect(VOID_KEY, void).put(VOID_KEY, voided.encode_to_vec());
            batch
        }
    };
    // Somebody else may end it at the same time, and have gone on since: then none of this happens.
    batch.expect(PENDING_KEY, Some(pending.to_vec())).remove(PENDING_KEY);
    batch.expect(SEQUENCE_KEY, sequence);
    batch.put(SEQUENCE_KEY, numbers.last.max(last).to_be_bytes());
    apply(index, &batch)
}

/// The records of facts in a pack, in the order in which they were written.
fn records_of(
    backend: &dyn PackBackend,
    pack: PackId,
    len: u64,
) -> Result<Vec<Vec<u8>>, CommitError> {
    let reader = backend.open(pack, true).map_err(storage)?;
    let mut rows = whole::rows(pack, &*reader, len).map_err(storage)?.1;
    rows.retain(|row| row.kind == Kind::Facts);
    rows.sort_by_key(|row| row.offset);
    let mut decoder = FrameDecoder::new().map_err(storage)?;
    rows.iter()
        .map(|row| whole::record(pack, &*reader, row, &mut decoder).map_err(storage))
        .collect()
}
