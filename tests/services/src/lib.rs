//! Real services for tests.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a helper that fails should fail its test on the spot"
)]

mod faults;
mod s3;

pub use faults::{Fault, FaultProxy};
pub use s3::{KEY, S3Server, SECRET, credentials};
