//! One file per command.

pub mod nar;
pub mod serve;
pub mod store;
