//! How a client and a daemon meet.
//!
//! | client | daemon |
//! |---|---|
//! | `nixc`, its version | |
//! | | `dxio`, its version |
//! | its features (1.38) | its features (1.38) |
//! | 0, 0: CPU affinity and reserved space, both things of the past | |
//! | | its own version as text (1.33), trust (1.35) |
//! | | messages, closed by `LAST` |

use std::io::{Read, Write};

use super::message::Message;
use super::server;
use super::wire::{ReadWire, WriteWire};
use super::{Error, Version};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// Whether a daemon lets a client do what only trusted users may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It did not say.
    Unknown,
    /// It does.
    Trusted,
    /// It does not.
    NotTrusted,
}

/// What a client and a daemon agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The version in use: the older of the two.
    pub version: Version,
    /// The daemon's name for itself, `2.34.8` for one.
    pub daemon: Option<String>,
    /// Whether the daemon trusts the client.
    pub trust: Trust,
    /// The features that the daemon has. The client has none.
    pub features: Vec<String>,
}

/// Greets a daemon as a client that speaks up to `newest`.
pub(super) fn greet(
    reader: &mut impl Read,
    writer: &mut impl Write,
    newest: Version,
) -> Result<Greeting, Error> {
    let flush = |writer: &mut dyn Write| writer.flush().map_err(super::wire::Error::Io);
    writer.write_number(CLIENT_MAGIC)?;
    writer.write_number(newest.to_wire())?;
    flush(writer)?;

    let magic = reader.read_number()?;
    if magic != DAEMON_MAGIC {
        return Err(Error::NotADaemon(magic));
    }
    let theirs = Version::from_wire(reader.read_number()?);
    if theirs.major != newest.major || theirs < Version::MIN {
        return Err(Error::Version(theirs));
    }
    let version = theirs.min(newest);

    let mut features = Vec::new();
    if version.at_least(38) {
        writer.write_list([""; 0].iter())?;
        flush(writer)?;
        features = reader.read_texts()?;
    }
    writer.write_number(0)?;
    writer.write_number(0)?;
    flush(writer)?;

    let daemon = version.at_least(33).then(|| reader.read_lossy()).transpose()?;
    let trust = match version.at_least(35).then(|| reader.read_number()).transpose()? {
        Some(1) => Trust::Trusted,
        Some(2) => Trust::NotTrusted,
        _ => Trust::Unknown,
    };
    finish_messages(reader, version)?;
    Ok(Greeting { version, daemon, trust, features })
}

/// Greets a client, up to where the messages begin. Gives the version in use.
pub(super) fn receive(
    reader: &mut impl Read,
    writer: &mut impl Write,
    hello: &server::Hello,
) -> Result<Version, server::Error> {
    let flush = |writer: &mut dyn Write| writer.flush().map_err(super::wire::Error::Io);
    let magic = reader.read_number()?;
    if magic != CLIENT_MAGIC {
        return Err(server::Error::NotAClient(magic));
    }
    writer.write_number(DAEMON_MAGIC)?;
    writer.write_number(hello.newest.to_wire())?;
    flush(writer)?;
    let theirs = Version::from_wire(reader.read_number()?);
    if theirs.major != hello.newest.major || theirs < Version::MIN {
        return Err(server::Error::Version(theirs));
    }
    let version = theirs.min(hello.newest);

    if version.at_least(38) {
        let _features = reader.read_texts()?;
        writer.write_list([""; 0].iter())?;
        flush(writer)?;
    }
    // An affinity follows if there is one.
    if reader.read_bool()? {
        reader.read_number()?;
    }
    let _reserve_space = reader.read_number()?;
    if version.at_least(33) {
        writer.write_bytes(hello.name)?;
    }
    if version.at_least(35) {
        writer.write_number(match hello.trust {
            Trust::Unknown => 0,
            Trust::Trusted => 1,
            Trust::NotTrusted => 2,
        })?;
    }
    Ok(version)
}

/// Reads messages until they are closed. Log lines are dropped: a query has
/// nothing to say.
pub(super) fn finish_messages(reader: &mut impl Read, version: Version) -> Result<(), Error> {
    loop {
        match Message::read(reader, version)? {
            Message::Last => return Ok(()),
            Message::Error(error) => return Err(Error::Remote(error)),
            Message::Log(_) | Message::Activity => {}
            Message::Read(_) => return Err(Error::Message(super::message::READ)),
            Message::Write(_) => return Err(Error::Message(super::message::WRITE)),
        }
    }
}
