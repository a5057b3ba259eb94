//! One file per command.

pub mod cache;
pub mod completions;
pub mod login;
pub mod logout;
pub mod man;
pub mod nar;
pub mod serve;
pub mod store;
pub mod whoami;
