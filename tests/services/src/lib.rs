//! Real services for tests: an S3 server, a proxy that misbehaves, and PostgreSQL.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a helper that fails should fail its test on the spot"
)]

mod faults;
mod keeper;
mod postgres;
mod s3;

pub use faults::{Fault, FaultProxy};
pub use postgres::Postgres;
pub use s3::{KEY, S3Server, SECRET, credentials};
