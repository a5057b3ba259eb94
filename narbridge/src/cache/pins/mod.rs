//! Pins: named roots that garbage collection keeps, with everything they need.
//!
//! A pin is one fact. What it names is its newest revision; as many of those before it as the pin
//! says are kept as well, so that a machine that still has yesterday's release can be served. A
//! revision may end by itself (`until`), and then keeps nothing any more. It may also keep what its
//! path was built from; see [`Cache::pinned_roots`].

mod name;
mod reach;
mod verify;

use castore::{CommitError, Expected, StoreError, Transaction};
use nix_compat::store_path::StorePath;
use prost::Message;

pub use name::{InvalidPinName, PinName};
pub use verify::{DamagedPath, MissingPath, Need, PinReport};

use super::{Cache, CacheError, CacheName, SettingError};
use crate::records::{
    PinRecord, PinRevisionRecord, RecordError, decode, path_key, pin_key, pin_prefix,
};

/// The most revisions of a pin that are kept. A pin is one record, and this bounds its length.
const MAX_REVISIONS: u32 = 1000;

/// A pin as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub name: PinName,
    /// How many revisions are kept.
    pub keep: u32,
    /// Newest first.
    pub revisions: Vec<PinRevision>,
}

/// One revision of a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRevision {
    /// The path that is kept.
    pub path: StorePath,
    /// Seconds since 1970.
    pub created: u64,
    /// Subject of the token that pinned it; empty if unknown.
    pub created_by: String,
    /// Whether what it was built from is kept, too.
    pub with_sources: bool,
    /// Until when it is kept, in seconds since 1970; `None` for ever.
    pub until: Option<u64>,
}

/// What is to be pinned, and how.
#[derive(Clone, Debug)]
pub struct PinRequest {
    /// The path, which the cache has to have.
    pub path: StorePath,
    /// How many revisions are kept from now on; `None` for as many as before, or one.
    pub revisions: Option<u32>,
    /// Until when this one is kept, in seconds since 1970; `None` for ever.
    pub until: Option<u64>,
    /// Whether to keep what it was built from, too.
    pub with_sources: bool,
    /// Subject of the token.
    pub created_by: String,
}

/// Why nothing was pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// What was asked for makes no sense.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Only what is there can be kept.
    #[error(
        "cache {cache} does not have {path}: push it first (with --ignore-upstream if an upstream \
         cache has it)"
    )]
    NoSuchPath {
        /// The cache.
        cache: CacheName,
        /// Base name of the path.
        path: StorePath,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl From<StoreError> for PinError {
    fn from(error: StoreError) -> Self {
        Self::Cache(error.into())
    }
}

impl PinRevision {
    /// Whether it keeps anything at that time.
    pub fn is_live(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn of_record(what: &str, record: PinRevisionRecord) -> Result<Self, RecordError> {
        Ok(Self {
            path: record.path.parse().map_err(|error| RecordError::new(what, error))?,
            created: record.created,
            created_by: record.created_by,
            with_sources: record.with_sources,
            until: record.until,
        })
    }

    fn to_record(&self) -> PinRevisionRecord {
        PinRevisionRecord {
            path: self.path.to_string(),
            created: self.created,
            created_by: self.created_by.clone(),
            with_sources: self.with_sources,
            until: self.until,
        }
    }
}

impl PinRequest {
    fn check(&self, now: u64) -> Result<(), SettingError> {
        if self.revisions.is_some_and(|keep| keep == 0 || keep > MAX_REVISIONS) {
            let why = format!("a number from 1 to {MAX_REVISIONS} is wanted");
            return Err(SettingError::new("revisions", why));
        }
        if self.until.is_some_and(|until| until <= now) {
            return Err(SettingError::new("until", "that time has passed: nothing would be kept"));
        }
        Ok(())
    }
}

impl Pin {
    fn decode(name: PinName, value: &[u8]) -> Result<Self, RecordError> {
        let what = format!("pin {name}");
        let record: PinRecord = decode(&what, value)?;
        let revisions = record.revisions.into_iter();
        let revisions = revisions.map(|revision| PinRevision::of_record(&what, revision));
        Ok(Self { name, keep: record.keep.max(1), revisions: revisions.collect::<Result<_, _>>()? })
    }

    fn encode(&self) -> Vec<u8> {
        let revisions = self.revisions.iter().map(PinRevision::to_record).collect();
        PinRecord { revisions, keep: self.keep }.encode_to_vec()
    }

    /// Takes a request in. A path that is the newest revision stays that one, with other settings;
    /// one that was a revision before becomes the newest. What has ended, or is one too many, goes.
    fn add(&mut self, request: &PinRequest, now: u64) {
        self.keep = request.revisions.unwrap_or(self.keep);
        let newest = self.revisions.first().filter(|newest| newest.path == request.path);
        let (created, created_by) = match newest {
            Some(newest) => (newest.created, newest.created_by.clone()),
            None => (now, request.created_by.clone()),
        };
        self.revisions.retain(|revision| revision.path != request.path && revision.is_live(now));
        let (path, until) = (request.path.clone(), request.until);
        let with_sources = request.with_sources;
        self.revisions.insert(0, PinRevision { path, created, created_by, with_sources, until });
        self.revisions.truncate(usize::try_from(self.keep).unwrap_or(usize::MAX));
    }
}

impl Cache {
    /// What is touched by who pins something here: see [`castore::Store::last_touched`].
    pub(in crate::cache) fn pins_topic(&self) -> String {
        format!("pins/{}", self.number)
    }

    /// The sequence number of the last change that pinned something here. Blocks.
    pub fn last_pinned(&self) -> Result<u64, CacheError> {
        Ok(self.store.last_touched(&self.pins_topic())?)
    }

    /// Pins a path under a name, as its newest revision. When this returns it is durable. Blocks.
    pub fn add_pin(&self, name: &PinName, request: &PinRequest) -> Result<Pin, PinError> {
        let now = self.store.now();
        request.check(now)?;
        let key = pin_key(self.number, name.as_str());
        loop {
            let there = self.path_record(request.path.hash())?;
            if there.is_none_or(|(_, record)| record.name != request.path.name()) {
                let (cache, path) = (self.name.clone(), request.path.clone());
                return Err(PinError::NoSuchPath { cache, path });
            }
            let fact = self.store.fact(&key)?;
            let mut pin = match &fact {
                Some(fact) => Pin::decode(name.clone(), &fact.value).map_err(CacheError::from)?,
                None => Pin { name: name.clone(), keep: 1, revisions: Vec::new() },
            };
            pin.add(request, now);
            let mut transaction = Transaction::default();
            transaction.put(key.clone(), pin.encode(), Expected::as_read(fact.as_ref()));
            transaction.require(path_key(self.number, request.path.hash()));
            transaction.touch(self.pins_topic());
            match self.store.commit(transaction) {
                Ok(_) => return Ok(pin),
                Err(CommitError::Conflict) => continue,
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }

    /// The pin of that name; `None` when there is none. Blocks.
    pub fn pin(&self, name: &PinName) -> Result<Option<Pin>, CacheError> {
        let fact = self.store.fact(&pin_key(self.number, name.as_str()))?;
        let pin = fact.map(|fact| Pin::decode(name.clone(), &fact.value));
        Ok(pin.transpose()?)
    }

    /// All pins, by name. Blocks.
    pub fn pins(&self) -> Result<Vec<Pin>, CacheError> {
        let mut pins = Vec::new();
        self.store.each_fact(&pin_prefix(self.number), |name, fact| {
            let name = String::from_utf8_lossy(name);
            let name: PinName =
                name.parse().map_err(|error| RecordError::new(format!("pin {name}"), error))?;
            pins.push(Pin::decode(name, &fact.value)?);
            Ok::<_, CacheError>(())
        })?;
        Ok(pins)
    }

    /// Takes a pin away with all its revisions. Says whether there was one. Blocks.
    pub fn remove_pin(&self, name: &PinName) -> Result<bool, CacheError> {
        let key = pin_key(self.number, name.as_str());
        loop {
            let Some(fact) = self.store.fact(&key)? else { return Ok(false) };
            let mut transaction = Transaction::default();
            transaction.remove(key.clone(), Expected::as_read(Some(&fact)));
            match self.store.commit(transaction) {
                Ok(_) => return Ok(true),
                Err(CommitError::Conflict) => continue,
                Err(error) => return Err(StoreError::from(error).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u8, revisions: Option<u32>, until: Option<u64>) -> PinRequest {
        let path = StorePath::new([number; 20].into(), "path").unwrap();
        let created_by = format!("subject-{number}");
        PinRequest { path, revisions, until, with_sources: false, created_by }
    }

    fn numbers(pin: &Pin) -> Vec<u8> {
        pin.revisions.iter().map(|revision| revision.path.hash().as_bytes()[0]).collect()
    }

    #[test]
    fn the_last_revisions_are_kept_and_what_comes_back_is_the_newest() {
        let mut pin = Pin { name: "main".parse().unwrap(), keep: 1, revisions: Vec::new() };
        pin.add(&request(1, None, None), 10);
        pin.add(&request(2, None, None), 20);
        assert_eq!(numbers(&pin), [2]);
        pin.add(&request(3, Some(3), None), 30);
        pin.add(&request(4, None, None), 40);
        pin.add(&request(5, None, None), 50);
        assert_eq!((numbers(&pin), pin.keep), (vec![5, 4, 3], 3));
        pin.add(&request(3, None, None), 60);
        assert_eq!(numbers(&pin), [3, 5, 4]);
        assert_eq!(pin.revisions[0].created, 60);

        // The newest again: only its settings change.
        pin.add(&PinRequest { with_sources: true, ..request(3, Some(2), Some(90)) }, 70);
        assert_eq!(numbers(&pin), [3, 5]);
        let newest = &pin.revisions[0];
        assert_eq!((newest.created, newest.until, newest.with_sources), (60, Some(90), true));
        assert!(newest.is_live(89) && !newest.is_live(90));
        pin.add(&request(6, None, None), 100);
        assert_eq!(numbers(&pin), [6, 5], "what has ended makes room");
        let read = Pin::decode(pin.name.clone(), &pin.encode()).unwrap();
        assert_eq!(read, pin);
    }

    #[test]
    fn what_would_keep_nothing_is_refused() {
        for (request, field) in [
            (request(1, Some(0), None), "revisions: "),
            (request(1, Some(1001), None), "revisions: "),
            (request(1, None, Some(10)), "until: "),
        ] {
            let message = request.check(10).unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
        request(1, Some(1000), Some(11)).check(10).unwrap();
    }
}
