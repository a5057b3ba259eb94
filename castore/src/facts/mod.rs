//! Facts: keys and values whose log is the packs.
//!
//! What a tenant owns (a path info, a cache's policy, a pin) is a fact: a key with a value. A
//! transaction changes several at once. Its record goes to the log, the log is made durable, and
//! only then does the index show the change. Each record carries a sequence number, and for each
//! change the sequence number it expected the key to have, so that a rebuild can order what
//! several writers did and leave out a record whose transaction lost a race.
//!
//! Where packs take appends, records lie among everything else in the pack that grows. Where they
//! are stored whole, each commit stores one small pack of records, in turn with the other writers
//! ([`turn`]).

mod record;
mod turn;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bytes::PackBackend;
use crate::gc::condemned::{EPOCH_KEY, outdated};
use crate::index::{Batch, Held, Index, IndexError, number};
use crate::log::{Log, Run};
use crate::pack::{FrameEncoder, PackId, whole};

pub(crate) use record::set_applied;
use record::{ChangeRecord, Record};
pub(crate) use record::{ReplayError, Sequences, order_of, replay_all};
use turn::Turn;
pub(crate) use turn::void;

/// While many commit at a time, at most one pack of facts is stored in this time: who commits
/// meanwhile shares the next one. An object costs the same whether it holds one record or hundreds.
/// Who commits alone does not wait.
const LINGER: Duration = Duration::from_millis(200);
/// How often a commit starts again when somebody else wrote in spite of the lock.
const ATTEMPTS: u32 = 5;

/// Index key of the sequence number up to which facts are applied.
const SEQUENCE_KEY: &[u8] = b"m/sequence";
/// Index key of the last transaction that may have touched any topic there is: the log does not keep
/// them, and this one was replayed.
const ALL_TOPICS_KEY: &[u8] = b"m/topics";
const FACT_PREFIX: u8 = b'f';

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
    topics: Vec<Cow<'static, str>>,
    required: Vec<Vec<u8>>,
    forbidden: Vec<Vec<u8>>,
    untouched: Vec<(Cow<'static, str>, u64)>,
    derived: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    secured: Option<u64>,
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

    /// Says what it is about, for those that watch: see [`Facts::last_touched`]. The log does not
    /// keep it.
    pub fn touch(&mut self, topic: impl Into<Cow<'static, str>>) {
        self.topics.push(topic.into());
    }

    /// Demands that a key exists, whatever it holds. The log does not keep it.
    pub fn require(&mut self, key: Vec<u8>) {
        self.required.push(key);
    }

    /// Demands that a key does not exist. The log does not keep it.
    pub fn forbid(&mut self, key: Vec<u8>) {
        self.forbidden.push(key);
    }

    /// Demands that nobody has touched a topic after `since`, which [`Facts::last_touched`] said. The log
    /// does not keep it.
    pub fn untouched(&mut self, topic: impl Into<Cow<'static, str>>, since: u64) {
        self.untouched.push((topic.into(), since));
    }

    /// Sets or removes a derived value with it, see [`Store::remember`](crate::Store::remember).
    pub fn derive(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        self.derived.push(([b"d", key].concat(), value));
    }

    /// Says in which epoch of the collector the trees that it names were found to stay, see
    /// [`Store::secure`](crate::Store::secure). A transaction that names trees has to say so.
    pub fn secured(&mut self, epoch: u64) {
        self.secured = Some(epoch);
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
    /// Packs were condemned meanwhile: what the transaction names has to be secured anew.
    #[error("garbage collection went on meanwhile")]
    Outdated,
    /// The log or the index failed.
    #[error("the change could not be written: {0}")]
    Storage(Arc<dyn std::error::Error + Send + Sync>),
}

/// Where the outcome of a transaction is left for whoever waits for it.
type Outcome = Arc<Mutex<Option<Result<u64, CommitError>>>>;

struct Waiting {
    transaction: Transaction,
    outcome: Outcome,
}

/// Where records become durable.
pub(crate) enum Journal {
    /// In the log, among everything else.
    Log,
    /// Each commit in a pack of its own.
    Packs(Arc<dyn PackBackend>),
}

/// Commits transactions, many with one write.
pub struct Facts {
    index: Arc<dyn Index>,
    log: Arc<Log>,
    journal: Journal,
    queue: Mutex<Vec<Waiting>>,
    /// Held by the thread that commits for all that wait.
    leader: Mutex<Leader>,
}

struct Leader {
    /// The last sequence number, where nobody else gives any out.
    sequence: u64,
    encoder: FrameEncoder,
    /// What the log has and the index has not taken yet.
    owed: Option<Batch>,
    /// When this writer stored a pack of facts for several at once, if that was the last one.
    crowded: Option<Instant>,
}

/// Transactions that were checked, as they are to be written.
struct Group {
    /// For each transaction its sequence number, or why it does not happen.
    results: Vec<Result<u64, CommitError>>,
    run: Run,
    batch: Batch,
    last: u64,
    /// What the index says of the collector's epoch.
    epoch: Option<Vec<u8>>,
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
    Ok(number(index.get(SEQUENCE_KEY)?.as_deref()))
}

impl Facts {
    /// Facts over an index that has seen the whole log.
    pub(crate) fn open(
        index: Arc<dyn Index>,
        log: Arc<Log>,
        journal: Journal,
    ) -> Result<Self, CommitError> {
        let sequence = applied(&*index).map_err(storage)?;
        let encoder = FrameEncoder::new().map_err(storage)?;
        let leader = Mutex::new(Leader { sequence, encoder, owed: None, crowded: None });
        Ok(Self { index, log, journal, queue: Mutex::default(), leader })
    }

    /// What a key holds.
    pub fn get(&self, key: &[u8]) -> Result<Option<Fact>, IndexError> {
        self.index.get(&index_key(key))?.map(parse).transpose()
    }

    /// For each key, whether there is such a fact.
    pub fn exist(&self, keys: &[Vec<u8>]) -> Result<Vec<bool>, IndexError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| index_key(key)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        Ok(self.index.get_many(&keys)?.iter().map(Option::is_some).collect())
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
        let lost = || Err(storage(io::Error::other("a commit was lost")));
        self.commit_all(vec![transaction]).pop().unwrap_or_else(lost)
    }

    /// The same for many that do not build on each other. Each happens or not by itself. Blocks.
    pub fn commit_all(&self, transactions: Vec<Transaction>) -> Vec<Result<u64, CommitError>> {
        let outcomes: Vec<Outcome> = transactions.iter().map(|_| Outcome::default()).collect();
        let waiting = transactions.into_iter().zip(&outcomes);
        let waiting =
            waiting.map(|(transaction, outcome)| Waiting { transaction, outcome: outcome.clone() });
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).extend(waiting);
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let take =
            |outcome: &Outcome| outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever commits takes all that wait, so either all of these are done or none is.
        if let Some(done) = outcomes.iter().map(take).collect::<Option<Vec<_>>>() {
            return done;
        }
        self.linger(&leader);
        let group = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        let results = self.commit_group(&mut leader, &group);
        for (waiting, result) in group.iter().zip(results) {
            *waiting.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
        let lost = || Err(storage(io::Error::other("a commit was lost")));
        outcomes.iter().map(|outcome| take(outcome).unwrap_or_else(lost)).collect()
    }

    /// Gives others the time to join.
    fn linger(&self, leader: &Leader) {
        if let (Journal::Packs(_), Some(stored)) = (&self.journal, leader.crowded) {
            std::thread::sleep(LINGER.saturating_sub(stored.elapsed()));
        }
    }

    fn commit_group(
        &self,
        leader: &mut Leader,
        group: &[Waiting],
    ) -> Vec<Result<u64, CommitError>> {
        let written = match &self.journal {
            Journal::Log => self.write_to_log(leader, group),
            Journal::Packs(backend) => self.write_pack(leader, backend, group),
        };
        written.unwrap_or_else(|error| group.iter().map(|_| Err(error.clone())).collect())
    }

    /// Checks the transactions against the index and each other, and numbers them from `after` on.
    /// The first record declares `void` void.
    fn prepare(
        &self,
        group: &[Waiting],
        encoder: &mut FrameEncoder,
        after: u64,
        mut void: Vec<Sequences>,
    ) -> Result<Group, CommitError> {
        let (mut states, epoch) = self.states(group)?;
        let now = number(epoch.as_deref());
        let mut results = Vec::with_capacity(group.len());
        let (mut run, mut batch, mut last) = (Run::default(), Batch::default(), after);
        for waiting in group {
            let changes = &waiting.transaction.changes;
            let holds = check(&states, &waiting.transaction);
            let holds = holds.and_then(|()| outdated(waiting.transaction.secured, now));
            let result = holds.and_then(|()| {
                let sequence = last + 1;
                let void = std::mem::take(&mut void);
                let record = Record { sequence, changes: changes.clone(), void };
                record.append_to(&mut run, encoder).map_err(storage)?;
                last = sequence;
                for change in changes {
                    let now = if change.value.is_some() { sequence } else { 0 };
                    states.insert(change.key.clone(), now);
                }
                for topic in &waiting.transaction.topics {
                    states.insert(topic_key(topic), sequence);
                    batch.put(topic_key(topic), sequence.to_be_bytes());
                }
                batch.change.extend(waiting.transaction.derived.iter().cloned());
                record.add_to(&mut batch);
                Ok(sequence)
            });
            results.push(result);
        }
        let before = (after > 0).then(|| after.to_be_bytes().to_vec());
        batch.expect(SEQUENCE_KEY, before);
        Ok(Group { results, run, batch, last, epoch })
    }

    /// Writes where records lie in the log. Nobody else does.
    fn write_to_log(
        &self,
        leader: &mut Leader,
        group: &[Waiting],
    ) -> Result<Vec<Result<u64, CommitError>>, CommitError> {
        self.pay_back(leader)?;
        let mut group = self.prepare(group, &mut leader.encoder, leader.sequence, Vec::new())?;
        if group.run.rows.is_empty() {
            return Ok(group.results);
        }
        // An error here means that nothing reached the log, and the numbers are free again.
        self.log.append_facts(&group.run, group.last).map_err(storage)?;
        leader.sequence = group.last;
        let written = self.log.sync().map_err(storage);
        let written = written.and_then(|()| self.index.apply(&group.batch).map_err(storage));
        if let Err(error) = written {
            // The log may hold what the index has not seen, and the next start would replay it: it
            // has to come before anything else.
            leader.owed = Some(group.batch);
            fail(&mut group.results, &error);
        }
        Ok(group.results)
    }

    /// Gives the index what it did not take before.
    fn pay_back(&self, leader: &mut Leader) -> Result<(), CommitError> {
        let Some(owed) = &leader.owed else { return Ok(()) };
        self.log.sync().map_err(storage)?;
        match self.index.apply(owed) {
            Ok(()) => {}
            // It took it after all, and only its answer was lost.
            Err(IndexError::Conflict)
                if applied(&*self.index).map_err(storage)? == leader.sequence => {}
            Err(error) => return Err(storage(error)),
        }
        leader.owed = None;
        Ok(())
    }

    /// Writes where each commit is a pack of its own, in turn with others.
    fn write_pack(
        &self,
        leader: &mut Leader,
        backend: &Arc<dyn PackBackend>,
        group: &[Waiting],
    ) -> Result<Vec<Result<u64, CommitError>>, CommitError> {
        // What the facts name has to be durable first, and to be known to who reads them.
        self.log.sync().map_err(storage)?;
        let lock = self.index.shared().map(|shared| shared.lock("commit")).transpose();
        let lock: Option<Box<dyn Held>> = lock.map_err(storage)?;
        for _ in 0..ATTEMPTS {
            let turn = Turn::take(&*self.index, backend)?;
            let (after, void) = (turn.sequence, turn.void.clone());
            let mut group = self.prepare(group, &mut leader.encoder, after, void)?;
            if group.run.rows.is_empty() {
                return Ok(group.results);
            }
            let pack = PackId::random().map_err(storage)?;
            let bytes = whole::seal(pack, &group.run, group.last).map_err(storage)?;
            let reserved = match turn.reserve(&*self.index, group.last, pack, &group.epoch) {
                Err(CommitError::Conflict) => continue,
                reserved => reserved?,
            };
            // Nothing is replayed from packs after a crash, so an embedded index must not lose that these
            // numbers are taken, nor what is acknowledged below. What is shared loses nothing anyway.
            self.index.flush().map_err(storage)?;
            backend.put(pack, bytes).map_err(storage)?;
            leader.crowded = (group.results.len() > 1).then(Instant::now);
            reserved.end_with(&mut group.batch);
            let applied = self.index.apply(&group.batch).and_then(|()| self.index.flush());
            if let Err(error) = applied {
                let error = match error {
                    IndexError::Conflict => storage(io::Error::other(
                        "it took so long that another server went on without it, and may have taken \
                         it over: try again",
                    )),
                    error => storage(error),
                };
                fail(&mut group.results, &error);
            }
            drop(lock);
            return Ok(group.results);
        }
        Err(storage(io::Error::other("other servers keep writing at the same time: try again")))
    }

    /// Changes the index while nobody commits, nor has left a commit unfinished.
    pub(crate) fn alone(
        &self,
        change: &dyn Fn() -> Result<Batch, IndexError>,
    ) -> Result<(), CommitError> {
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let Journal::Packs(backend) = &self.journal else {
            self.pay_back(&mut leader)?;
            self.index.apply(&change().map_err(storage)?).map_err(storage)?;
            return self.index.flush().map_err(storage);
        };
        let lock = self.index.shared().map(|shared| shared.lock("commit")).transpose();
        let _lock: Option<Box<dyn Held>> = lock.map_err(storage)?;
        for _ in 0..ATTEMPTS {
            Turn::take(&*self.index, backend)?;
            let mut batch = change().map_err(storage)?;
            turn::expect_nothing_pending(&mut batch);
            match self.index.apply(&batch) {
                Err(IndexError::Conflict) => continue,
                applied => applied.map_err(storage)?,
            }
            return self.index.flush().map_err(storage);
        }
        Err(storage(io::Error::other("other servers keep writing at the same time: try again")))
    }

    /// For each key of which a transaction expects something, when it was changed last; and the
    /// collector's epoch.
    fn states(&self, group: &[Waiting]) -> Result<(States, Option<Vec<u8>>), CommitError> {
        let changes = group.iter().flat_map(|waiting| &waiting.transaction.changes);
        let expected = changes.filter(|change| change.expected.is_some()).map(|change| &change.key);
        let required = group.iter().flat_map(|waiting| &waiting.transaction.required);
        let forbidden = group.iter().flat_map(|waiting| &waiting.transaction.forbidden);
        let keys: Vec<&Vec<u8>> = expected.chain(required).chain(forbidden).collect();
        let watched = group.iter().flat_map(|waiting| &waiting.transaction.untouched);
        let topics: Vec<Vec<u8>> = watched.map(|(topic, _)| topic_key(topic)).collect();
        let in_index: Vec<Vec<u8>> = keys.iter().map(|key| index_key(key)).collect();
        let asked = in_index.iter().chain(&topics).map(|key| &key[..]);
        let asked: Vec<&[u8]> = asked.chain([ALL_TOPICS_KEY, EPOCH_KEY]).collect();
        let mut found = self.index.get_many(&asked).map_err(storage)?;
        let epoch = found.pop().flatten();
        let all_touched = number(found.pop().flatten().as_deref());
        let touched = found.split_off(keys.len());
        let state = |(key, found): (&Vec<u8>, Option<Vec<u8>>)| {
            let fact = found.map(parse).transpose().map_err(storage)?;
            Ok((key.clone(), fact.map_or(0, |fact| fact.sequence)))
        };
        let states: Result<States, CommitError> = keys.into_iter().zip(found).map(state).collect();
        let mut states = states?;
        for (topic, touched) in topics.into_iter().zip(touched) {
            states.insert(topic, number(touched.as_deref()).max(all_touched));
        }
        Ok((states, epoch))
    }

    /// The sequence number of the last transaction that touched a topic, or may have; 0 if none has.
    pub fn last_touched(&self, topic: &str) -> Result<u64, IndexError> {
        let found = self.index.get_many(&[&topic_key(topic), ALL_TOPICS_KEY])?;
        Ok(found.iter().map(|touched| number(touched.as_deref())).max().unwrap_or_default())
    }
}

/// When each key was changed last, 0 where it does not exist; and when each topic was touched. Keys of
/// facts have a word and a slash in front or are a word of their own, so none is a topic's.
type States = HashMap<Vec<u8>, u64>;

/// Whether the keys are in the states that the transaction builds on.
fn check(states: &States, transaction: &Transaction) -> Result<(), CommitError> {
    let state = |key: &Vec<u8>| states.get(key).copied().unwrap_or_default();
    let holds = |change: &ChangeRecord| match change.expected {
        Some(expected) => state(&change.key) == expected,
        None => true,
    };
    let exist = transaction.required.iter().all(|key| state(key) != 0)
        && transaction.forbidden.iter().all(|key| state(key) == 0);
    let untouched =
        transaction.untouched.iter().all(|(topic, since)| state(&topic_key(topic)) == *since);
    let hold = exist && untouched && transaction.changes.iter().all(holds);
    if hold { Ok(()) } else { Err(CommitError::Conflict) }
}

/// Gives every transaction that would have happened this error.
fn fail(results: &mut [Result<u64, CommitError>], error: &CommitError) {
    for result in results.iter_mut().filter(|result| result.is_ok()) {
        *result = Err(error.clone());
    }
}

fn topic_key(topic: &str) -> Vec<u8> {
    [b"t", topic.as_bytes()].concat()
}
