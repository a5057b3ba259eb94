//! One file per command.

pub mod cache;
pub mod completions;
pub mod copy_store;
pub mod daemon;
pub mod doctor;
pub mod fsck;
pub mod login;
pub mod logout;
pub mod man;
pub mod migrate;
pub mod mount;
pub mod nar;
pub mod overlay;
pub mod path;
pub mod pin;
pub mod push;
pub mod queue;
pub mod scrub;
pub mod serve;
pub mod store;
pub mod token;
pub mod umount;
pub mod use_cache;
pub mod watch_exec;
pub mod watch_store;
pub mod whoami;
