//! Granary's socket: Nix's worker protocol, read only, for a cache's store paths.
//!
//! [`Daemon::listen`] makes the socket, [`Daemon::serve`] answers whoever connects until it is told
//! to stop. What is answered comes from a [`View`](granary_lazy::View), and nothing is
//! remembered here but who refers to whom. A client of such a socket reads files through the file
//! system, so it wants the mount beside it.
//!
//! Each client has a thread of its own, which reads a request, asks the view on the runtime and
//! writes the answer. The protocol is made of small blocking reads and writes, so a thread is what
//! its parser fits; a client that is silent costs a stack of which a few pages are in use, and there
//! is a bound on clients because there is one on sockets anyway.
//!
//! Promises: a client that sends anything at all, or nothing, harms nobody but itself; a source that
//! does not answer is an error in the client's hands within [`Options::deadline`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod answers;
mod clients;
mod connection;
mod derivation;
mod nar;
mod referrers;
mod refusal;
mod serve;
mod socket;

pub use serve::{Daemon, Options};
pub use socket::{ListenError, Socket};
