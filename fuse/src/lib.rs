//! Granary's mount: a cache's store paths as a read-only file system.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
