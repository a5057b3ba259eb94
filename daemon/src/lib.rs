//! Granary's socket: Nix's worker protocol, read only, for a cache's store paths.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
