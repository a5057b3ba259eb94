//! The second embedded engine: redb, one table in one file.
//!
//! Batches become durable in the order they were applied, though not one by one: after a loss of
//! power the index is as it was at some earlier moment, never a mixture, and opens at once.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ::redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::{Batch, Index, IndexError, Pairs};

/// What redb may keep of its pages in memory; its own default is 1 GiB. The inner pages of
/// millions of facts fit, and the kernel caches the rest anyway.
const CACHE: usize = 32 * 1024 * 1024;

/// Bytes of changes that may wait to be made durable. redb keeps notes in memory of every page
/// that waits, and a crash costs a replay of all that waits; an fsync is cheap once in so many.
const MAX_PENDING: usize = 16 * 1024 * 1024;

/// What a batch counts for besides its keys and values: the page that it changes at least.
const PAGE: usize = 4096;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("index");

/// An index in a folder, through redb.
pub struct RedbIndex {
    db: Database,
    /// About how many bytes were applied since the last durable commit. Held while a commit runs.
    pending: Mutex<usize>,
}

fn engine(source: impl std::error::Error + Send + Sync + 'static) -> IndexError {
    IndexError::Engine { engine: "redb", source: Box::new(source) }
}

impl RedbIndex {
    /// Opens or makes the index in `dir`.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        fs::create_dir_all(dir).map_err(engine)?;
        let mut builder = Database::builder();
        let db = builder.set_cache_size(CACHE).create(dir.join("index.redb")).map_err(engine)?;
        let index = Self { db, pending: Mutex::new(0) };
        // Readers cannot make the table.
        let transaction = index.begin(Durability::Immediate)?;
        transaction.open_table(TABLE).map_err(engine)?;
        transaction.commit().map_err(engine)?;
        Ok(index)
    }

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, IndexError> {
        let mut transaction = self.db.begin_write().map_err(engine)?;
        transaction.set_durability(durability).map_err(engine)?;
        // Commits write down which pages are free: without that, opening after a crash reads the
        // whole file.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn table(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, IndexError> {
        self.db.begin_read().map_err(engine)?.open_table(TABLE).map_err(engine)
    }
}

/// Makes the changes of a batch in a transaction, in order.
fn change(transaction: &WriteTransaction, batch: &Batch) -> Result<(), IndexError> {
    let mut table = transaction.open_table(TABLE).map_err(engine)?;
    for (key, expected) in &batch.expect {
        let found = table.get(&key[..]).map_err(engine)?;
        if found.as_ref().map(|value| value.value()) != expected.as_deref() {
            return Err(IndexError::Conflict);
        }
    }
    for (key, value) in &batch.change {
        match value {
            Some(value) => table.insert(&key[..], &value[..]).map_err(engine)?,
            None => table.remove(&key[..]).map_err(engine)?,
        };
    }
    Ok(())
}

fn weight(batch: &Batch) -> usize {
    let change = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
        key.len() + value.as_ref().map_or(0, |value| value.len())
    };
    PAGE + batch.change.iter().map(change).sum::<usize>()
}

impl Index for RedbIndex {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        let table = self.table()?;
        let value = |key: &&[u8]| {
            let found = table.get(*key).map_err(engine)?;
            Ok(found.map(|value| value.value().to_vec()))
        };
        keys.iter().map(value).collect()
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.table()?.range::<&[u8]>((start, Bound::Unbounded)).map_err(engine)?;
        let mut pairs = Vec::new();
        for pair in range.take(limit) {
            let (key, value) = pair.map_err(engine)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            pairs.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(pairs)
    }

    fn apply(&self, batch: &Batch) -> Result<(), IndexError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = pending.saturating_add(weight(batch));
        let full = waiting >= MAX_PENDING;
        let transaction =
            self.begin(if full { Durability::Immediate } else { Durability::None })?;
        if let Err(error) = change(&transaction, batch) {
            transaction.abort().map_err(engine)?;
            return Err(error);
        }
        transaction.commit().map_err(engine)?;
        *pending = if full { 0 } else { waiting };
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if *pending > 0 {
            // A durable commit takes all that went before with it.
            self.begin(Durability::Immediate)?.commit().map_err(engine)?;
            *pending = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &RedbIndex, key: &[u8], value: &[u8]) {
        let mut batch = Batch::default();
        batch.put(key, value);
        index.apply(&batch).unwrap();
    }

    /// The index as a crash at this moment would leave it, were all writes to reach the disk.
    fn crashed(dir: &Path) -> (tempfile::TempDir, RedbIndex) {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(dir.join("index.redb"), copy.path().join("index.redb")).unwrap();
        let index = RedbIndex::open(copy.path()).unwrap();
        (copy, index)
    }

    #[test]
    fn redb_keeps_the_promises_of_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = 0;
        super::super::conformance::check(|| {
            at += 1;
            RedbIndex::open(&dir.path().join(at.to_string())).unwrap()
        });
    }

    #[test]
    fn what_is_not_yet_durable_is_read_and_survives_closing() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(dir.path()).unwrap();
        put(&index, b"key", b"value");
        assert_eq!(index.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(crashed(dir.path()).1.get(b"key").unwrap(), None, "it is durable already");
        drop(index);
        let index = RedbIndex::open(dir.path()).unwrap();
        assert_eq!(index.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    }

    #[test]
    fn a_crash_loses_only_batches_after_the_flush() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(dir.path()).unwrap();
        for n in 0..100u8 {
            put(&index, &[n], b"before");
        }
        index.flush().unwrap();
        put(&index, &[7], b"after");
        put(&index, &[200], b"after");
        let (_dir, index) = crashed(dir.path());
        let before = |n: u8| index.get(&[n]).unwrap().as_deref() == Some(b"before");
        assert!((0..100).all(before));
        assert_eq!(index.get(&[200]).unwrap(), None);
    }

    #[test]
    fn much_that_waits_is_made_durable_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let index = RedbIndex::open(dir.path()).unwrap();
        put(&index, b"small", b"");
        put(&index, b"large", &vec![0; MAX_PENDING]);
        assert!(crashed(dir.path()).1.get(b"small").unwrap().is_some());
    }
}
