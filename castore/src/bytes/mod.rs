//! Where packs lie: a small append and read-range trait.

mod local;

use std::io::{self, IoSliceMut};
use std::sync::Arc;

pub use local::LocalPacks;

use crate::pack::PackId;

/// Whether a read may wait for a disk or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may.
    Yes,
    /// It may not: only what is in memory is read.
    No,
}

/// A pack as a backend lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: PackId,
    /// Sealed packs never change again.
    pub sealed: bool,
}

/// A place that keeps packs. Calls block; they belong on threads that may wait.
pub trait PackBackend: Send + Sync {
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
