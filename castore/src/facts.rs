//! Facts: keys and values whose log is the packs.
//!
//! What a tenant owns (a path info, a cache's policy, a pin) is a fact: a key with a value. A
//! transaction changes several at once. Its record goes to the log, the log is made durable, and
//! only then does the index show the change. Each record carries a sequence number, and for each
//! change the sequence number it expected the key to have, so that a rebuild can order what
//! several writers did and leave out a record whose transaction lost a race.
//!
//! ```text
//! record = protobuf { sequence=1 uint64, changes=2 repeated { key=1 bytes, value=2 optional bytes,
//!                     expected=3 optional uint64 } }
//! ```
//!
//! `value` is absent when the key was removed; `expected` is 0 when the key had to be absent.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;

use crate::Digest;
use crate::index::{Batch, Index, IndexError};
use crate::log::{Log, Run};
use crate::pack::{FrameEncoder, Kind};

/// Index key of the sequence number up to which facts are applied.
const SEQUENCE_KEY: &[u8] = b"m/sequence";
const FACT_PREFIX: u8 = b'f';

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ChangeRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeRecord {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    value: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    expected: Option<u64>,
}

/// What a key holds, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Sequence number of the transaction that wrote it.
    pub sequence: u64,
    /// The value.
    pub value: Vec<u8>,
}

/// Which state of a key a change builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// The key must not exist.
    Absent,
    /// The key must still be as that transaction left it.
    Since(u64),
}

impl Expected {
    /// The state in which `fact` was read.
    pub fn as_read(fact: Option<&Fact>) -> Self {
        fact.map_or(Self::Absent, |fact| Self::Since(fact.sequence))
    }
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    changes: Vec<ChangeRecord>,
}

impl Transaction {
    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>, expected: Expected) {
        self.push(key, Some(value), expected);
    }

    /// Removes a key.
    pub fn remove(&mut self, key: Vec<u8>, expected: Expected) {
        self.push(key, None, expected);
    }

    fn push(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, expected: Expected) {
        let expected = match expected {
            Expected::Anything => None,
            Expected::Absent => Some(0),
            Expected::Since(sequence) => Some(sequence),
        };
        self.changes.push(ChangeRecord { key, value, expected });
    }
}

/// Why a transaction did not happen.
#[derive(Debug, thiserror::Error, Clone)]
#[non_exhaustive]
pub enum CommitError {
    /// A key is not in the state that the transaction expected; read it again and retry.
    #[error("the store was changed by someone else meanwhile")]
    Conflict,
    /// The log or the index failed.
    #[error("the change could not be written: {0}")]
    Storage(Arc<dyn std::error::Error + Send + Sync>),
}

struct Waiting {
    transaction: Transaction,
    outcome: Arc<Mutex<Option<Result<u64, CommitError>>>>,
}

/// Commits transactions, many with one fsync.
pub struct Facts {
    index: Arc<dyn Index>,
    log: Arc<Log>,
    queue: Mutex<Vec<Waiting>>,
    /// Held by the thread that commits for all that wait.
    leader: Mutex<Leader>,
}

struct Leader {
    sequence: u64,
    encoder: FrameEncoder,
    /// The index missed a change that the log has.
    broken: bool,
}

fn storage(error: impl std::error::Error + Send + Sync + 'static) -> CommitError {
    CommitError::Storage(Arc::new(error))
}

fn index_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(FACT_PREFIX);
    out.extend_from_slice(key);
    out
}

fn parse(value: Vec<u8>) -> Result<Fact, IndexError> {
    match value.split_first_chunk::<8>() {
        Some((sequence, rest)) => {
            Ok(Fact { sequence: u64::from_be_bytes(*sequence), value: rest.to_vec() })
        }
        None => Err(IndexError::Engine {
            engine: "facts",
            source: "a fact has no sequence number; remove the index folder to rebuild it".into(),
        }),
    }
}

/// The sequence number up to which the index has seen facts.
pub fn applied(index: &dyn Index) -> Result<u64, IndexError> {
    let bytes = index.get(SEQUENCE_KEY)?.unwrap_or_default();
    Ok(bytes.try_into().map_or(0, u64::from_be_bytes))
}

/// Adds the changes of a record to a batch.
fn add_to_batch(batch: &mut Batch, record: Record) {
    for change in record.changes {
        let value = change.value.map(|value| {
            let mut out = record.sequence.to_be_bytes().to_vec();
            out.extend_from_slice(&value);
            out
        });
        batch.change.push((index_key(&change.key), value));
    }
    batch.put(SEQUENCE_KEY, record.sequence.to_be_bytes());
}

/// Replays one record of the log on the index, unless it lost its race when it was written.
pub fn replay(index: &dyn Index, encoded: &[u8]) -> Result<(), ReplayError> {
    let record = Record::decode(encoded)?;
    for change in &record.changes {
        if let Some(expected) = change.expected {
            let found = index.get(&index_key(&change.key))?.map(parse).transpose()?;
            if found.map_or(0, |fact| fact.sequence) != expected {
                return Ok(());
            }
        }
    }
    let mut batch = Batch::default();
    add_to_batch(&mut batch, record);
    Ok(index.apply(&batch)?)
}

/// The sequence number of an encoded record.
pub fn sequence_of(encoded: &[u8]) -> Result<u64, ReplayError> {
    Ok(Record::decode(encoded)?.sequence)
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

impl Facts {
    /// Facts over an index that has seen the whole log.
    pub fn open(index: Arc<dyn Index>, log: Arc<Log>) -> Result<Self, CommitError> {
        let sequence = applied(&*index).map_err(storage)?;
        let encoder = FrameEncoder::new().map_err(storage)?;
        let leader = Mutex::new(Leader { sequence, encoder, broken: false });
        Ok(Self { index, log, queue: Mutex::default(), leader })
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Result<Option<Fact>, IndexError> {
        self.index.get(&index_key(key))?.map(parse).transpose()
    }

    /// Up to `limit` facts whose key starts with `prefix` and sorts after `after`.
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Fact)>, IndexError> {
        let after = after.map(index_key);
        let pairs = self.index.scan(&index_key(prefix), after.as_deref(), limit)?;
        pairs.into_iter().map(|(key, value)| Ok((key[1..].to_vec(), parse(value)?))).collect()
    }

    /// Makes the transaction durable and visible; returns its sequence number. Blocks.
    pub fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        let outcome = Arc::new(Mutex::new(None));
        let waiting = Waiting { transaction, outcome: outcome.clone() };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = outcome.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return outcome;
        }
        // Nobody committed for this thread while it waited: it commits for all that wait now.
        let group = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        let results = self.commit_group(&mut leader, &group);
        for (waiting, result) in group.iter().zip(results) {
            *waiting.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
        let own = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.unwrap_or_else(|| Err(storage(io::Error::other("a commit was lost"))))
    }

    fn commit_group(
        &self,
        leader: &mut Leader,
        group: &[Waiting],
    ) -> Vec<Result<u64, CommitError>> {
        if leader.broken {
            let error = storage(io::Error::other(
                "an earlier change reached the log but not the index; restart the server",
            ));
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let before = leader.sequence;
        let mut pending: HashMap<Vec<u8>, u64> = HashMap::new();
        let mut results = Vec::with_capacity(group.len());
        let (mut run, mut batch) = (Run::default(), Batch::default());
        for waiting in group {
            let changes = &waiting.transaction.changes;
            let result = self.check(&pending, changes).and_then(|()| {
                let sequence = leader.sequence + 1;
                let record = Record { sequence, changes: changes.clone() };
                append_record(&mut run, &mut leader.encoder, &record).map_err(storage)?;
                leader.sequence = sequence;
                for change in changes {
                    let now = if change.value.is_some() { sequence } else { 0 };
                    pending.insert(change.key.clone(), now);
                }
                add_to_batch(&mut batch, record);
                Ok(sequence)
            });
            results.push(result);
        }
        if run.rows.is_empty() {
            return results;
        }
        let expected = (before > 0).then(|| before.to_be_bytes().to_vec());
        batch.expect(SEQUENCE_KEY, expected);
        let written = match self.log.append_facts(&run, leader.sequence) {
            // Nothing reached the log: its numbers are free again.
            Err(error) => {
                leader.sequence = before;
                Err(storage(error))
            }
            Ok(()) => {
                let applied = self.log.sync().map_err(storage);
                let applied = applied.and_then(|()| self.index.apply(&batch).map_err(storage));
                // The log may hold what the index has not seen. To go on would build on a state
                // that the next start replays differently.
                leader.broken = applied.is_err();
                applied
            }
        };
        if let Err(error) = written {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(error.clone());
            }
        }
        results
    }

    fn check(
        &self,
        pending: &HashMap<Vec<u8>, u64>,
        changes: &[ChangeRecord],
    ) -> Result<(), CommitError> {
        for change in changes {
            let Some(expected) = change.expected else {
                continue;
            };
            let found = match pending.get(&change.key) {
                Some(sequence) => *sequence,
                None => self.get(&change.key).map_err(storage)?.map_or(0, |fact| fact.sequence),
            };
            if found != expected {
                return Err(CommitError::Conflict);
            }
        }
        Ok(())
    }
}

fn append_record(run: &mut Run, encoder: &mut FrameEncoder, record: &Record) -> io::Result<()> {
    let plain = record.encode_to_vec();
    run.add(encoder, Kind::Facts, Digest::of(&plain), &plain)
}
