//! The embedded engine: sled, one tree.
//!
//! Its log survives the death of the process but not a loss of power (it asks the kernel to start
//! writing, not to finish), so the store decides at start whether to believe it.

use std::collections::HashMap;
use std::path::Path;

use ::sled::transaction::{ConflictableTransactionError, TransactionError};
use ::sled::{Db, Mode};

use super::{Batch, Index, IndexError, Pairs};

/// What sled may keep of its pages in memory. Its own default is 1 GiB.
const CACHE: u64 = 32 * 1024 * 1024;

/// An index in a folder, through sled.
pub struct SledIndex {
    db: Db,
}

fn engine(source: impl std::error::Error + Send + Sync + 'static) -> IndexError {
    IndexError::Engine { engine: "sled", source: Box::new(source) }
}

impl SledIndex {
    /// Opens or makes the index in `dir`.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let config = ::sled::Config::new().path(dir).cache_capacity(CACHE).mode(Mode::LowSpace);
        Ok(Self { db: config.open().map_err(engine)? })
    }
}

impl Index for SledIndex {
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        let value = |key: &&[u8]| Ok(self.db.get(key).map_err(engine)?.map(|value| value.to_vec()));
        keys.iter().map(value).collect()
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = self.db.range::<&[u8], _>((start, Bound::Unbounded));
        let mut pairs = Vec::new();
        for pair in range.take(limit) {
            let (key, value) = pair.map_err(engine)?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }

    fn apply(&self, batch: &Batch) -> Result<(), IndexError> {
        // sled applies the last of several changes to a key in no promised order.
        let last: HashMap<&[u8], &Option<Vec<u8>>> =
            batch.change.iter().map(|(key, value)| (&key[..], value)).collect();
        let outcome = self.db.transaction(|tree| {
            for (key, expected) in &batch.expect {
                if tree.get(key)?.as_deref() != expected.as_deref() {
                    return Err(ConflictableTransactionError::Abort(()));
                }
            }
            for (key, value) in &last {
                match value {
                    Some(value) => tree.insert(*key, &value[..])?,
                    None => tree.remove(*key)?,
                };
            }
            Ok(())
        });
        match outcome {
            Ok(()) => Ok(()),
            Err(TransactionError::Abort(())) => Err(IndexError::Conflict),
            Err(TransactionError::Storage(error)) => Err(engine(error)),
        }
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.db.flush().map(drop).map_err(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_keeps_the_promises_of_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = 0;
        super::super::conformance::check(|| {
            at += 1;
            SledIndex::open(&dir.path().join(at.to_string())).unwrap()
        });
    }

    #[test]
    fn what_was_flushed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut batch = Batch::default();
        batch.put(*b"key", *b"value");
        let index = SledIndex::open(dir.path()).unwrap();
        index.apply(&batch).unwrap();
        index.flush().unwrap();
        drop(index);
        let index = SledIndex::open(dir.path()).unwrap();
        assert_eq!(index.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    }
}
