//! The index: ordered keys to small values. A view that can be remade from the packs.
//!
//! One small trait, one engine per kind of installation; every engine passes the suite in
//! [`conformance`]. An engine need not be durable by itself: after a crash the store replays what
//! the packs hold beyond the last sequence number the index knows.

pub mod conformance;
#[cfg(feature = "postgres")]
mod postgres;
mod redb;
mod shared;
mod sled;

#[cfg(feature = "postgres")]
pub use self::postgres::PostgresIndex;
pub use self::redb::RedbIndex;
pub use self::shared::{Held, News, Shared};
pub use self::sled::SledIndex;

/// Keys and values, in order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The number in a value of 8 big-endian bytes; 0 for none.
pub(crate) fn number(value: Option<&[u8]>) -> u64 {
    value.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Pairs that are read at once.
const PAGE: usize = 1000;

/// Gives every pair whose key starts with `prefix` to `each`, in order. What is changed meanwhile may be
/// among them or not.
pub(crate) fn each_pair(
    index: &dyn Index,
    prefix: &[u8],
    mut each: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = index.scan(prefix, after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        page.into_iter().try_for_each(|(key, value)| each(key, value))?;
    }
}

/// Why an index did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The engine failed.
    #[error("the index ({engine}) failed: {source}")]
    Engine {
        /// Which engine.
        engine: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine is a server, and that cannot be reached or does not answer. Whether a batch with
    /// preconditions took effect may not be known then; its preconditions tell when it is tried again.
    #[error("the index ({engine}) cannot be reached: {source}")]
    Unavailable {
        /// Which engine.
        engine: &'static str,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A precondition of a batch does not hold; nothing was changed.
    #[error("the index has another value under a key than the batch expects")]
    Conflict,
}

impl From<IndexError> for std::io::Error {
    fn from(error: IndexError) -> Self {
        let kind = match &error {
            IndexError::Unavailable { .. } => std::io::ErrorKind::NetworkDown,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What has to hold: the key's value, or `None` for its absence.
    pub expect: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What then happens: a new value, or `None` to remove the key.
    pub change: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.change.push((key.into(), Some(value.into())));
        self
    }

    /// Removes a key.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.change.push((key.into(), None));
        self
    }

    /// Demands that a key has this value, or none.
    pub fn expect(&mut self, key: impl Into<Vec<u8>>, value: Option<Vec<u8>>) -> &mut Self {
        self.expect.push((key.into(), value));
        self
    }
}

/// Ordered keys to small values. Calls may block.
pub trait Index: Send + Sync {
    /// The values of many keys, in the order asked for.
    fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, IndexError>;

    /// Up to `limit` pairs whose key starts with `prefix` and sorts after `after`, in order.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Pairs, IndexError>;

    /// Applies a batch atomically, or [`IndexError::Conflict`].
    fn apply(&self, batch: &Batch) -> Result<(), IndexError>;

    /// Writes out what is only in memory.
    fn flush(&self) -> Result<(), IndexError>;

    /// Removes everything.
    fn clear(&self) -> Result<(), IndexError> {
        loop {
            let page = self.scan(b"", None, 10_000)?;
            if page.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for (key, _) in page {
                batch.remove(key);
            }
            self.apply(&batch)?;
        }
    }

    /// What the engine offers when several processes share it; `None` for one that is this
    /// process's alone.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }

    /// The value of one key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.get_many(&[key])?.pop().flatten())
    }
}
