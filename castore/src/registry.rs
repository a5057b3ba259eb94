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
//!
//! A pack that is removed loses its entry, and gets one that says so: with a length of 0. Whoever has seen
//! the one comes across the other.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::index::{Batch, Index, IndexError, each_pair};
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
    /// Whether it says that the pack is removed.
    pub fn is_removal(&self) -> bool {
        self.len == 0
    }

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
    /// Held while what follows is taken in.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The last number that was seen.
    last: u64,
    /// The number of each pack that is registered.
    numbers: HashMap<PackId, u64>,
}

fn key(number: u64) -> Vec<u8> {
    [&[PREFIX][..], &number.to_be_bytes()].concat()
}

/// The pack that an entry registers, unless it is a removal.
fn registered(value: &[u8]) -> Option<PackId> {
    Entry::decode(value).filter(|entry| !entry.is_removal()).map(|entry| entry.id)
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

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a pack.
    pub fn add(&self, entry: &Entry) -> Result<(), IndexError> {
        self.append(&[*entry], &[])
    }

    /// Says that packs are removed.
    pub fn remove(&self, packs: &[PackId]) -> Result<(), IndexError> {
        let (mut keys, mut unseen) = (Vec::new(), HashSet::new());
        {
            let seen = self.seen();
            for id in packs {
                match seen.numbers.get(id) {
                    Some(number) => keys.push(key(*number)),
                    None => {
                        unseen.insert(*id);
                    }
                }
            }
        }
        if !unseen.is_empty() {
            each_pair(&*self.index, &[PREFIX], |key, value| {
                keys.extend(registered(&value).filter(|id| unseen.contains(id)).map(|_| key));
                Ok(())
            })?;
        }
        // One that is not registered any more was removed before, and everybody was told.
        let asked: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let found = self.index.get_many(&asked)?;
        let found = keys.into_iter().zip(found);
        let found = found.filter_map(|(key, value)| Some((key, registered(&value?)?)));
        let (keys, ids): (Vec<_>, Vec<_>) = found.unzip();
        let removal = |id| Entry { id, len: 0, rows_at: 0, rows: 0 };
        let removals: Vec<Entry> = ids.into_iter().map(removal).collect();
        self.append(&removals, &keys)
    }

    /// Appends entries, and takes away others.
    fn append(&self, entries: &[Entry], obsolete: &[Vec<u8>]) -> Result<(), IndexError> {
        if entries.is_empty() {
            return Ok(());
        }
        loop {
            let count = self.index.get(COUNT_KEY)?;
            let mut last = match &count {
                Some(bytes) => {
                    let bytes = <[u8; 8]>::try_from(&bytes[..]);
                    u64::from_be_bytes(bytes.map_err(|_| damaged("its count is damaged"))?)
                }
                None => 0,
            };
            let mut batch = Batch::default();
            for entry in entries {
                last += 1;
                batch.put(key(last), entry.encode());
            }
            for key in obsolete {
                batch.remove(&key[..]);
            }
            batch.expect(COUNT_KEY, count).put(COUNT_KEY, last.to_be_bytes());
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
        let mut seen = self.seen();
        loop {
            let page = self.index.scan(&[PREFIX], Some(&key(seen.last)), PAGE)?;
            let whole = page.len() < PAGE;
            for (key, value) in page {
                let number = key[1..].try_into().map(u64::from_be_bytes);
                let number = number.map_err(|_| damaged("a number is damaged"))?;
                let entry = Entry::decode(&value).ok_or_else(|| damaged("an entry is damaged"))?;
                each(entry)?;
                seen.last = number;
                match entry.is_removal() {
                    true => seen.numbers.remove(&entry.id),
                    false => seen.numbers.insert(entry.id, number),
                };
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
    fn who_has_seen_a_pack_sees_that_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let index: Arc<dyn Index> = Arc::new(SledIndex::open(dir.path()).unwrap());
        let (one, other) = (Registry::new(index.clone()), Registry::new(index));
        let id = |number: u8| PackId::from_bytes([number; 16]);
        for number in 1..=3 {
            one.add(&Entry { id: id(number), len: 300, rows_at: 100, rows: 2 }).unwrap();
        }
        assert_eq!(ids(&one).len(), 3);
        other.remove(&[id(2), id(9)]).unwrap();
        other.remove(&[id(2)]).unwrap();
        let mut seen = Vec::new();
        let mut see = |registry: &Registry| {
            let news = registry.news(|entry| {
                seen.push((entry.id, entry.is_removal()));
                Ok::<_, IndexError>(())
            });
            news.unwrap();
            std::mem::take(&mut seen)
        };
        assert_eq!(see(&one), [(id(2), true)]);
        // By one that has seen them, and again by one that has not seen that.
        one.remove(&[id(3)]).unwrap();
        one.remove(&[id(3), id(2)]).unwrap();
        assert_eq!(see(&one), [(id(3), true)]);
        assert_eq!(see(&other), [(id(1), false), (id(2), true), (id(3), true)]);
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
