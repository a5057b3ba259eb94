//! The protocol of the Nix daemon's socket, as a [`Client`] speaks it and as a
//! [`Server`] does.
//!
//! Everything is made of 64-bit little-endian numbers and of strings padded to
//! eight bytes ([`wire`]). After a greeting that settles the version
//! ([`Client::connect`]), the client sends an operation's number with its
//! arguments. The daemon first sends [messages](message::Message), log lines
//! and activities, and closes them with `LAST`, after which its answer
//! follows, or with an error, after which nothing does.
//!
//! Versions 1.16 (Nix 2.0) to 1.38 are spoken; of two peers the older decides:
//!
//! | from | what |
//! |---|---|
//! | 1.17 | path infos start with whether the path is valid |
//! | 1.22 | outputs of derivations by name |
//! | 1.26 | errors with a level and a trace |
//! | 1.27 | queries for many paths say whether to substitute |
//! | 1.28, 1.29, 1.37 | results of builds say more and more |
//! | 1.30 | a derivation's path stands for itself, and not for its outputs |
//! | 1.33 | the daemon says its own version |
//! | 1.35 | the daemon says whether it trusts the client (the last that Lix speaks) |
//! | 1.38 | both sides name their features |
//!
//! Nothing is allocated by a length that a peer has only announced.
//!
//! Source: the Nix manual ("nix-daemon", "Store object info"); the behaviour of
//! the daemons of Nix 2.8.0, 2.26.3 and 2.34.8.

pub mod answer;
mod client;
mod handshake;
pub mod message;
pub mod request;
pub mod server;
mod target;
pub mod wire;

pub use answer::Answer;
pub use client::Client;
pub use handshake::{Greeting, Trust};
pub use request::Request;
pub use server::Server;

use std::fmt;

use crate::{path_info, store_path};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 since Nix 0.11.
    pub major: u8,
    /// Counts the changes.
    pub minor: u8,
}

impl Version {
    /// The oldest version spoken: Nix 2.0.
    pub const MIN: Version = Version { major: 1, minor: 16 };
    /// The newest version spoken.
    pub const MAX: Version = Version { major: 1, minor: 38 };

    /// Whether this is version 1.`minor`, or newer.
    const fn at_least(self, minor: u8) -> bool {
        self.minor >= minor
    }

    /// The number on the wire. Nothing above the lower two bytes is in use.
    const fn to_wire(self) -> u64 {
        (self.major as u64) << 8 | self.minor as u64
    }

    const fn from_wire(number: u64) -> Self {
        let [minor, major, ..] = number.to_le_bytes();
        Version { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or what came over it is not the protocol.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// The peer does not greet as a daemon does.
    #[error("this is no Nix daemon: it greets with {0:#x}")]
    NotADaemon(u64),
    /// The daemon is too old, or of a time to come.
    #[error("the Nix daemon speaks protocol {0}; {min} to {max} are understood",
        min = Version::MIN, max = Version::MAX)]
    Version(Version),
    /// The daemon refused.
    #[error("the Nix daemon says: {0}")]
    Remote(message::RemoteError),
    /// A message that has no place here, by its number.
    #[error("the Nix daemon sent the message {0:#x}, which has no place in a query")]
    Message(u64),
    /// A store path in an answer.
    #[error("the Nix daemon named a path: {0}")]
    StorePath(#[from] store_path::Error),
    /// A path info.
    #[error(transparent)]
    PathInfo(#[from] path_info::Error),
    /// The connection was used after an error: its place in the stream is lost.
    #[error("the connection to the Nix daemon was used after an error")]
    Broken,
}

impl Error {
    /// Whether the connection is gone, so that another one may fare better.
    pub fn is_disconnect(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
        match self {
            Error::Wire(wire::Error::Io(e)) => {
                matches!(e.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof)
            }
            Error::Broken => true,
            _ => false,
        }
    }
}
