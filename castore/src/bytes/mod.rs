//! Where packs lie: a small append and read-range trait.
//!
//! A local disk takes appends, so a pack is durable as far as it was synced. An object store takes
//! whole objects only: there a pack grows in a local *spool* file, is read from it, and becomes
//! durable when it is sealed, which uploads it.

#[cfg(test)]
mod conformance;
mod local;
#[cfg(feature = "s3")]
mod s3;
mod vectored;

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use local::LocalPacks;
#[cfg(feature = "s3")]
pub use s3::{S3Location, S3LocationError, S3Packs, S3Statistics};

use crate::pack::PackId;

/// Whether a read may wait for a disk or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may.
    Yes,
    /// It may not: only what is in memory is read.
    No,
}

/// When what was written to a pack is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After [`AppendPack::sync`], also while it grows.
    Synced,
    /// When [`AppendPack::seal`] has returned, and not before. What an unsealed pack held is gone
    /// when its process is.
    Sealed,
}

/// A pack as a backend lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: PackId,
    /// Sealed packs never change again.
    pub sealed: bool,
    /// Length in bytes, where listing tells it.
    pub len: Option<u64>,
}

/// A place that keeps packs. Calls block; they belong on threads that may wait.
pub trait PackBackend: Send + Sync {
    /// When packs are durable here.
    fn durability(&self) -> Durability;

    /// Every pack there is, sealed or not.
    fn list(&self) -> io::Result<Vec<Listed>>;

    /// Opens a pack for reading.
    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>>;

    /// Makes a new, empty, unsealed pack. Its name is durable when this returns.
    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>>;

    /// Opens an unsealed pack for appending, cut to `len` bytes.
    fn reopen(&self, id: PackId, len: u64) -> io::Result<Arc<dyn AppendPack>>;

    /// Removes a pack that is unsealed and holds nothing.
    fn discard(&self, id: PackId) -> io::Result<()>;

    /// Removes a sealed pack. One that is not there is removed. Who has it open may go on reading it, for as
    /// long as the place lets them.
    fn remove(&self, id: PackId) -> io::Result<()>;

    /// Stores a sealed pack whole. Durable when this returns. May be called again for the same pack
    /// with the same bytes.
    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()>;

    /// Length of a sealed pack; `None` if there is no such pack. Asks the place itself, no cache.
    fn stat(&self, id: PackId) -> io::Result<Option<u64>>;

    /// A small text kept beside the packs, such as who owns them; `None` if there is none.
    fn note(&self, name: &str) -> io::Result<Option<String>>;

    /// Keeps a small text beside the packs. Durable when this returns.
    fn set_note(&self, name: &str, text: &str) -> io::Result<()>;

    /// Removes what interrupted writes of any process left behind more than so long ago: uploads
    /// that nobody will finish. Returns how many.
    fn tidy(&self, older_than: Duration) -> io::Result<u64>;

    /// Whether the place answers at this moment. Prompt: seconds at most.
    fn check(&self) -> io::Result<()>;

    /// The place as one that others can read from by themselves; `None` where they cannot.
    fn direct(&self) -> Option<&dyn Direct> {
        None
    }
}

/// A place that gives whole objects to whoever has a URL for one. Such objects lie beside the packs, and
/// are copies: they may be removed at any time.
pub trait Direct: Send + Sync {
    /// Length of the object of that name; `None` if there is none.
    fn stored(&self, name: &str) -> io::Result<Option<u64>>;

    /// Stores an object of `len` bytes, which `write` puts into a file. Whole or not at all.
    fn store(
        &self,
        name: &str,
        len: u64,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> io::Result<()>;

    /// A URL under which anybody can read the object for so long.
    fn url(&self, name: &str, expires: Duration) -> io::Result<String>;
}

/// A pack that can be read, also while it is being appended to.
pub trait ReadPack: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether nothing was written yet.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`; a short pack is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills the buffers one after the other from `offset`. With [`Wait::No`] an error of the kind
    /// `WouldBlock` says that the bytes are not at hand; what the buffers hold then is undefined.
    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()>;

    /// Says that this range will be read soon. Returns at once.
    fn will_read(&self, range: Range<u64>) {
        let _ = range;
    }

    /// What was read of this range was wrong: it must not be taken from a cache again.
    fn distrust(&self, range: Range<u64>) {
        let _ = range;
    }
}

/// A pack that is being written.
pub trait AppendPack: ReadPack {
    /// Writes at `offset`, which is where the pack ends.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Takes back what a failed write left behind `len`.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Returns once everything written before is durable.
    fn sync(&self) -> io::Result<()>;

    /// Makes the pack durable and final.
    fn seal(&self) -> io::Result<()>;
}
