//! What the end-to-end tests share: the `granary` server as a child process, Nix clients of three
//! versions, closures of real store paths, and store paths made up on the spot.
//!
//! The formats that the tests send (NAR, narinfo, nix32) are written here once more, on purpose
//! without Granary's own crates: a mistake there must not be able to agree with itself.
//!
//! The servers run on the store and under the index that the environment chooses: see
//! [`combination`].
//!
//! Nothing is skipped: a missing part is a panic that says how to get it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test on the spot"
)]

pub mod attic;
pub mod background;
pub mod backing;
pub mod closure;
pub mod codec;
pub mod collector;
pub mod combination;
pub mod costs;
pub mod crowd;
pub mod fake;
pub mod faulty;
pub mod file_server;
pub mod granary;
pub mod http;
pub mod issuer;
pub mod keeper;
pub mod lazy;
pub mod ledger;
pub mod made_up;
pub mod namespace;
pub mod nar;
pub mod narinfo;
pub mod nginx;
pub mod nix;
pub mod packs;
pub mod places;
pub mod ports;
pub mod protocol;
pub mod pulls;
pub mod race;
pub mod random;
pub mod raw;
pub mod replicas;
pub mod server;
pub mod tmpfs;
pub mod tokens;
pub mod updates;
pub mod upload;
pub mod wire;

pub use background::Background;
pub use backing::Backing;
pub use closure::Closure;
pub use combination::{Combination, Index, Store};
pub use fake::FakeServer;
pub use faulty::FaultyProxy;
pub use file_server::FileServer;
pub use granary::Home;
pub use http::Http;
pub use issuer::Issuer;
pub use lazy::{Flipper, Mount, Mounter, Statistics};
pub use made_up::MadeUp;
pub use nginx::Nginx;
pub use nix::{ChrootStore, Nix, Version};
pub use pulls::Puller;
pub use replicas::{Cluster, Replica};
pub use server::Server;
pub use tmpfs::Tmpfs;
pub use wire::Wire;
