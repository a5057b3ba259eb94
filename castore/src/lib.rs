//! Content-addressed storage that knows nothing of Nix.
//!
//! Files are cut into chunks, chunks and the trees over them are appended to packs, and facts about
//! them are appended to the same packs. The log is the store; the index is a view that can be
//! remade. Everything here blocks; async callers use threads that may wait.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod assembly;
pub mod blob;
pub mod bytes;
pub mod chunking;
mod clock;
pub mod copy;
pub mod digest;
pub mod durable;
pub mod facts;
pub mod fsck;
pub mod gc;
mod holder;
pub mod index;
mod intake;
pub mod locations;
mod log;
pub mod pack;
mod packs;
mod registry;
pub mod store;
pub mod tree;
pub mod upload;
mod workers;

pub use assembly::{Assembly, AssemblyError};
pub use clock::{Clock, ManualClock};
pub use digest::Digest;
pub use facts::{CommitError, Expected, Fact, Transaction};
pub use holder::Holder;
pub use intake::{Intake, IntakeError};
pub use locations::Location;
pub use pack::Kind;
pub use store::{Cause, OpenProgress, Options, Place, Store, StoreError};
pub use upload::{Upload, UploadError, Uploaded};
