//! Nix store paths on top of the castore.
//!
//! NARs become trees and trees become NARs again; path infos and whatever else a binary cache keeps
//! are facts of the castore, below the cache that owns them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod accesses;
mod broken;
pub mod cache;
pub mod fsck;
pub mod gc;
pub mod ingest;
pub mod nar;
pub mod records;
pub mod retention;
pub mod revocations;
pub mod scrub;
pub mod secrets;
pub mod sizes;
pub mod storehouse;

pub use nar_compression as compression;

pub use cache::{Cache, CacheError, CacheName};
pub use revocations::Revocations;
pub use storehouse::{Storehouse, StorehouseError};
