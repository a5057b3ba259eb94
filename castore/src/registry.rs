//! The registry: which packs hold what readers look up, kept in the index.
//!
//! Where packs are objects and others write them, too, a process learns of new ones here: entries are
//! numbered without gaps, so it asks for what comes after the last it has seen. Packs of facts alone
//! are not in it; whoever remakes the index lists the place itself.
//!
//! ```text
//! "p" number(8, big-endian) -> pack(16) length(8) rows offset(8) rows(8)     big-endian
//! "m/packs"                 -> the last number(8)
//! ```

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::index::{Batch, Index, IndexError};
use crate::pack::PackId;

const COUNT_KEY: &[u8] = b"m/packs";
const PREFIX: u8 = b'p';
/// Entries read at once.
const PAGE: usize = 1000;

/// A sealed pack that holds more than facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: PackId,
    /// Its length in bytes.
    pub len: u64,
    /// Where the rows of its footer lie.
    pub rows_at: u64,
    /// How many they are.
    pub rows: u64,
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.id.as_bytes().to_vec();
        for number in [self.len, self.rows_at, self.rows] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<{ PackId::LEN }>()?;
        let (numbers, rest) = rest.as_chunks::<8>();
        let [len, rows_at, rows] = *numbers else { return None };
        let [len, rows_at, rows] = [len, rows_at, rows].map(u64::from_be_bytes);
        rest.is_empty().then_some(Self { id: PackId::from_bytes(*id), len, rows_at, rows })
    }
}

/// The packs that are registered, as far as this process has seen them.
pub struct Registry {
    index: Arc<dyn Index>,
    /// The last number that was seen. Held while what follows it is taken in.
    seen: Mutex<u64>,
}

fn key(number: u64) -> Vec<u8> {
    [&[PREFIX][..], &number.to_be_bytes()].concat()
}

fn damaged(what: &str) -> IndexError {
    let source = io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    IndexError::Engine { engine: "registry", source: source.into() }
}

impl Registry {
    /// The registry of an index. Nothing of it has been seen.
    pub fn new(index: Arc<dyn Index>) -> Self {
        Self { index, seen: Mutex::default() }
    }

    /// Registers a pack.
    pub fn add(&self, entry: &Entry) -> Result<(), IndexError> {
        loop {
            let count = self.index.get(COUNT_KEY)?;
            let next = match &count {
                Some(bytes) => {
                    let bytes = <[u8; 8]>::try_from(&bytes[..]);
                    u64::from_be_bytes(bytes.map_err(|_| damaged("its count is damaged"))?) + 1
                }
                None => 1,
            };
            let mut batch = Batch::default();
            batch.expect(COUNT_KEY, count).put(COUNT_KEY, next.to_be_bytes());
            batch.put(key(next), entry.encode());
            match self.index.apply(&batch) {
                // Somebody else registered one at the same time.
                Err(IndexError::Conflict) => continue,
                applied => return applied,
            }
        }
    }

    /// Gives every entry that was not seen before to `each`, in order. An entry that it fails on is
    /// given again the next time.
    pub fn news<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut seen: MutexGuard<'_, u64> =
            self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let page = self.index.scan(&[PREFIX], Some(&key(*seen)), PAGE)?;
            let whole = page.len() < PAGE;
            for (key, value) in page {
                let number = key[1..].try_into().map(u64::from_be_bytes);
                let number = number.map_err(|_| damaged("a number is damaged"))?;
                each(Entry::decode(&value).ok_or_else(|| damaged("an entry is damaged"))?)?;
                *seen = number;
            }
            if whole {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::SledIndex;

    fn ids(registry: &Registry) -> Vec<PackId> {
        let mut ids = Vec::new();
        let news = registry.news(|entry| {
            ids.push(entry.id);
            Ok::<_, IndexError>(())
        });
        news.unwrap();
        ids
    }

    #[test]
    fn everybody_sees_every_pack_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let index: Arc<dyn Index> = Arc::new(SledIndex::open(dir.path()).unwrap());
        let (one, other) = (Registry::new(index.clone()), Registry::new(index));
        let entry = |number: u8| Entry {
            id: PackId::from_bytes([number; 16]),
            len: 300,
            rows_at: 100,
            rows: number.into(),
        };
        one.add(&entry(1)).unwrap();
        other.add(&entry(2)).unwrap();
        let both = [entry(1).id, entry(2).id];
        assert_eq!(ids(&one), both);
        assert_eq!(ids(&one), []);
        one.add(&entry(3)).unwrap();
        assert_eq!(ids(&one), [entry(3).id]);
        assert_eq!(ids(&other), [entry(1).id, entry(2).id, entry(3).id]);
    }

    #[test]
    fn what_was_not_taken_in_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::new(Arc::new(SledIndex::open(dir.path()).unwrap()));
        let id = PackId::from_bytes([7; 16]);
        registry.add(&Entry { id, len: 1, rows_at: 2, rows: 3 }).unwrap();
        assert!(registry.news(|_| Err(IndexError::Conflict)).is_err());
        assert_eq!(ids(&registry), [id]);
    }
}
