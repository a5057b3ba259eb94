//! Granary's client: what a machine does that pushes its store paths to a server.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod http;
pub mod local;
pub mod migrate;
pub mod nix_setup;
pub mod push;
pub mod unpack;
pub mod watch;
