//! A cache's store paths on demand.
//!
//! Doors see a [`View`]: which paths there are, what is known of them, and their bytes. A
//! [`LazyStore`] is one on a [`Source`]: what doors ask for is fetched by the chunk, verified, and
//! kept in a [`DiskCache`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod chunks;
mod disk;
mod fetch;
mod flight;
mod order;
mod paths;
mod profile;
mod readahead;
mod record;
mod source;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod view;

pub use disk::{DiskCache, DiskError};
pub use granary_client::migrate::Trust;
pub use source::{Local, Nars, Source, SourceError};
pub use store::{LazyStore, Options, Statistics};
pub use view::{FileRef, LazyPath, View, ViewError};
