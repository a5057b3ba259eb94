//! Real services for tests.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod keeper;
mod postgres;

pub use postgres::Postgres;
