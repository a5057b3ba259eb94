//! Applying batches.
//!
//! Each is one transaction, in the order that a lock gives them. A batch that looks before it writes,
//! or that removes, has the lock alone, so what it has seen stays true until it is committed: a key
//! that is absent has no row that could be locked instead. Batches that only put hold the lock
//! together. Each holds the rows of all its keys until it ends, having taken them in the order of the
//! keys, which makes them as good as one after the other. The lock is given up after the commit has
//! become visible.
//!
//! (SERIALIZABLE would do without the lock, but tracks reads by page or table where there are many,
//! so that large batches would fail again and again for no reason.)

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{Failure, Trouble};
use super::names::Names;
use super::pool::{COUNT, Connection, Connections};
use super::read::pair;
use super::retry::retried;
use super::{Batch, IndexError};

/// Batches under way: they wait for each other, and readers should not wait for a connection
/// because of that.
const WRITERS: usize = COUNT / 2;

/// How long a batch waits to get under way.
const WAIT: Duration = Duration::from_secs(10);

/// What one statement changes or compares, in keys and in bytes: it should take a moment, and the
/// server has it in memory several times over.
const KEYS: usize = 4096;
const BYTES: usize = 4 * 1024 * 1024;

const PUT: &str = "INSERT INTO granary_index AS old (key, value) \
                   SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value \
                   WHERE old.value <> excluded.value";
const REMOVE: &str = "DELETE FROM granary_index WHERE key = ANY($1)";
const COMPARE: &str = "SELECT key, value FROM granary_index WHERE key = ANY($1)";

/// The order of batches.
pub(super) struct Writers {
    under_way: Semaphore,
    /// Statements that begin a transaction with the lock, shared or alone.
    begin_shared: String,
    begin_alone: String,
}

/// A batch, sorted by key: the last change to each.
struct Changes<'a> {
    puts: Vec<(&'a [u8], &'a [u8])>,
    removals: Vec<&'a [u8]>,
}

impl Writers {
    pub(super) fn new(names: &Names) -> Self {
        let begin = |lock: &str| {
            let class = names.writers;
            format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT {lock}({class}, 0)")
        };
        Self {
            under_way: Semaphore::new(WRITERS),
            begin_shared: begin("pg_advisory_xact_lock_shared"),
            begin_alone: begin("pg_advisory_xact_lock"),
        }
    }

    pub(super) async fn apply(
        &self,
        connections: &Connections,
        batch: &Batch,
    ) -> Result<(), IndexError> {
        let changes = Changes::of(batch);
        if batch.expect.is_empty() && changes.is_empty() {
            return Ok(());
        }
        let busy = Trouble::Busy { count: WRITERS, what: "writers", within: WAIT };
        let turn = timeout(WAIT, self.under_way.acquire()).await;
        let _turn = turn.map_err(|_| Failure::Late(busy))?;
        let alone = !batch.expect.is_empty() || !changes.removals.is_empty();
        let begin = if alone { &self.begin_alone } else { &self.begin_shared };
        retried(async || {
            let transaction = async |connection: &Connection| {
                connection.run(begin).await?;
                let outcome = changes.make(connection, batch).await;
                if let Err(Failure::Conflict) = outcome {
                    connection.run("ROLLBACK").await?;
                }
                outcome?;
                connection.run("COMMIT").await.map_err(Failure::of_commit)
            };
            match connections.with(transaction).await {
                // Without preconditions a second time makes no difference.
                Err(Failure::Unknown(trouble)) if batch.expect.is_empty() => {
                    Err(Failure::Lost(trouble))
                }
                outcome => outcome,
            }
        })
        .await
    }
}

impl<'a> Changes<'a> {
    fn of(batch: &'a Batch) -> Self {
        let changes = batch.change.iter();
        let last: BTreeMap<&[u8], Option<&[u8]>> =
            changes.map(|(key, value)| (&key[..], value.as_deref())).collect();
        let (mut puts, mut removals) = (Vec::new(), Vec::new());
        for (key, value) in last {
            match value {
                Some(value) => puts.push((key, value)),
                None => removals.push(key),
            }
        }
        Self { puts, removals }
    }

    fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty()
    }

    /// Compares and changes, within a transaction.
    async fn make(&self, connection: &Connection, batch: &Batch) -> Result<(), Failure> {
        for expected in batch.expect.chunks(KEYS) {
            let keys: Vec<&[u8]> = expected.iter().map(|(key, _)| &key[..]).collect();
            let rows = connection.query(COMPARE, &[&keys]).await?;
            let found = rows.iter().map(pair).collect::<Result<HashMap<_, _>, _>>()?;
            let holds = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
                found.get(&key[..]).copied() == value.as_deref()
            };
            if !expected.iter().all(holds) {
                return Err(Failure::Conflict);
            }
        }
        let mut rest = &self.puts[..];
        while let Some(count) = portion(rest) {
            let (now, later) = rest.split_at(count);
            let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = now.iter().copied().unzip();
            connection.query(PUT, &[&keys, &values]).await?;
            rest = later;
        }
        for keys in self.removals.chunks(KEYS) {
            connection.query(REMOVE, &[&keys]).await?;
        }
        Ok(())
    }
}

/// How many of these one statement takes; none when there are none.
fn portion(puts: &[(&[u8], &[u8])]) -> Option<usize> {
    let mut bytes = 0;
    let fits = |(key, value): &&(&[u8], &[u8])| {
        bytes += key.len() + value.len();
        bytes <= BYTES
    };
    let count = puts.iter().take(KEYS).take_while(fits).count();
    (!puts.is_empty()).then_some(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_bounded_and_never_empty() {
        let (small, large) = (vec![0; 8], vec![0; BYTES + 1]);
        assert_eq!(portion(&[]), None);
        assert_eq!(portion(&[(&[], &large), (&[], &small)]), Some(1));
        assert_eq!(portion(&[(&[], &small), (&[], &large)]), Some(1));
        assert_eq!(portion(&vec![(&[][..], &small[..]); KEYS + 1]), Some(KEYS));
    }
}
