//! The record of a transaction, as it lies in a pack.
//!
//! ```text
//! record = protobuf { sequence=1 uint64, changes=2 repeated { key=1 bytes, value=2 optional bytes,
//!                     expected=3 optional uint64 },
//!                     void=4 repeated { first=1 uint64, last=2 uint64 } }
//! ```
//!
//! `value` is absent when the key was removed; `expected` is 0 when the key had to be absent. `void`
//! names sequence numbers whose records count for nothing, should they turn up: their writer was
//! gone, or too late, and was never acknowledged.

use std::collections::{HashMap, HashSet};
use std::io;

use prost::Message;

use crate::Digest;
use crate::index::{Batch, Index, IndexError};
use crate::log::Run;
use crate::pack::{FrameEncoder, Kind};

use super::{ALL_TOPICS_KEY, SEQUENCE_KEY, index_key, parse};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ChangeRecord>,
    #[prost(message, repeated, tag = "4")]
    pub void: Vec<Sequences>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChangeRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub value: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    pub expected: Option<u64>,
}

/// Sequence numbers from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Sequences {
    #[prost(uint64, tag = "1")]
    pub first: u64,
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

impl Sequences {
    /// Whether `sequence` is one of them.
    pub fn contains(&self, sequence: u64) -> bool {
        (self.first..=self.last).contains(&sequence)
    }
}

impl Record {
    /// Adds its changes to a batch.
    pub fn add_to(self, batch: &mut Batch) {
        for change in self.changes {
            let value = change.value.map(|value| {
                let mut out = self.sequence.to_be_bytes().to_vec();
                out.extend_from_slice(&value);
                out
            });
            batch.change.push((index_key(&change.key), value));
        }
        batch.put(SEQUENCE_KEY, self.sequence.to_be_bytes());
    }

    /// Appends it to a run.
    pub fn append_to(&self, run: &mut Run, encoder: &mut FrameEncoder) -> io::Result<()> {
        let plain = self.encode_to_vec();
        run.add(encoder, Kind::Facts, Digest::of(&plain), &plain)
    }
}

/// Why a record could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It is not a record of facts.
    #[error("a record of facts is not valid protobuf: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The index did not take it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The sequence number of an encoded record, and the ones it declares void.
pub(crate) fn order_of(encoded: &[u8]) -> Result<(u64, Vec<Sequences>), ReplayError> {
    let record = Record::decode(encoded)?;
    Ok((record.sequence, record.void))
}

/// Replays records of the log on the index. All at once, or not at all. Nobody else changes facts.
pub(crate) fn replay_all(index: &dyn Index, encoded: &[Vec<u8>]) -> Result<(), ReplayError> {
    Ok(index.apply(&replayed(index, encoded)?)?)
}

/// What records of the log change, in order, but those that lost their race when they were written: as
/// long as the index's sequence number is what it is now.
pub(super) fn replayed(index: &dyn Index, encoded: &[Vec<u8>]) -> Result<Batch, ReplayError> {
    let records: Result<Vec<Record>, _> =
        encoded.iter().map(|bytes| Record::decode(&bytes[..])).collect();
    let records = records?;
    let changes = records.iter().flat_map(|record| &record.changes);
    let expecting = changes.filter(|change| change.expected.is_some());
    let keys: HashSet<Vec<u8>> = expecting.map(|change| index_key(&change.key)).collect();
    let keys: Vec<Vec<u8>> = keys.into_iter().collect();
    let asked: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let mut states: HashMap<Vec<u8>, u64> = HashMap::new();
    for (key, found) in keys.iter().zip(index.get_many(&asked)?) {
        states.insert(key.clone(), found.map(parse).transpose()?.map_or(0, |fact| fact.sequence));
    }
    let mut batch = Batch::default();
    for record in records {
        let holds = |change: &ChangeRecord| {
            let state = states.get(&index_key(&change.key)).copied().unwrap_or_default();
            change.expected.is_none_or(|expected| expected == state)
        };
        if !record.changes.iter().all(holds) {
            continue;
        }
        for change in &record.changes {
            let state = if change.value.is_some() { record.sequence } else { 0 };
            states.insert(index_key(&change.key), state);
        }
        // The log does not say what it was about.
        batch.put(ALL_TOPICS_KEY, record.sequence.to_be_bytes());
        record.add_to(&mut batch);
    }
    Ok(batch)
}

/// Makes `sequence` the last number that was given out, where void ones go beyond what was replayed.
pub(crate) fn set_applied(index: &dyn Index, sequence: u64) -> Result<(), IndexError> {
    if sequence == 0 {
        // Said by the absence of the key, which is what the first commit expects.
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.put(SEQUENCE_KEY, sequence.to_be_bytes());
    index.apply(&batch)
}
