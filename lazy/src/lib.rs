//! A cache's store paths on demand.
//!
//! Doors see a [`View`]: which paths there are, what is known of them, and their bytes. What they ask
//! for is fetched by the chunk, verified, and kept on disk.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod view;

pub use view::{FileRef, LazyPath, View, ViewError};
