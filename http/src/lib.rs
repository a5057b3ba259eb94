//! Door 1: a binary cache over HTTP, as every Nix since 2.8 uses one.
//!
//! ```text
//! /                                   what this is
//! /healthz  /readyz                   GET HEAD; for those who watch over it, see `health`
//! /<cache>/nix-cache-info
//! /<cache>/<hash>.narinfo             GET HEAD PUT
//! /<cache>/<hash>.ls                  GET HEAD PUT
//! /<cache>/nar/<file hash>.nar[.*]    GET HEAD PUT; ranges
//! /<cache>/log/<derivation>           GET HEAD PUT, and likewise
//!          debuginfo/…  realisations/…  build-trace-v2/…
//! /_granary/v1/…                      Granary's own API, see granary-api
//! /_api/v1/…                          Attic's API, for its clients
//! ```
//!
//! Public caches can be read by all; everything else wants a token, as Bearer or as the Basic
//! password.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admission;
mod auth;
mod body;
mod caching;
pub mod config;
mod error;
mod health;
mod oidc;
mod range;
mod reply;
mod routes;
mod server;
pub mod token;
mod turns;

use std::sync::Arc;

use narbridge::Storehouse;
use narbridge::cache::Copies;
use narbridge::gc::GcOptions;

pub use auth::{Auth, new_id};
pub use oidc::{IssuerError, Issuers};
pub use server::{serve, serve_health};

use health::Health;
use turns::Turns;

/// Limits that an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest NAR that is accepted, in plain bytes.
    pub max_nar_size: u64,
    /// NARs of at least so many bytes, as they are sent, are to be fetched from the object store
    /// directly, where there is one.
    pub redirect_from: Option<u64>,
    /// How garbage is collected when somebody asks for it.
    pub collection: GcOptions<'static>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_nar_size: 64 << 30, redirect_from: None, collection: GcOptions::default() }
    }
}

/// What the requests work on.
pub struct App {
    house: Arc<Storehouse>,
    auth: Auth,
    limits: Limits,
    turns: Arc<Turns>,
    copies: Arc<Copies>,
    health: Health,
}

impl App {
    /// An application over a storehouse.
    pub fn new(house: Arc<Storehouse>, auth: Auth, limits: Limits) -> Arc<Self> {
        let health = Health::new(house.clone());
        let (turns, copies) = (Arc::new(Turns::new()), Arc::default());
        Arc::new(Self { house, auth, limits, turns, copies, health })
    }
}
