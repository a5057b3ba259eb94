//! A connection to a client: its requests, one after another, each answered before the next is
//! read.
//!
//! What a client can make a server hold is bounded: a request has at most [`MAX_REQUEST`] bytes.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Take, Write};

use super::answer::Answer;
use super::handshake::receive;
use super::message::{LAST, write_error};
use super::request::{ReadError, Request};
use super::wire::{self, WriteWire};
use super::{Trust, Version};
use crate::store_path::StoreDir;

/// Longest request in bytes: the names of some 200 000 paths.
pub const MAX_REQUEST: u64 = 16 * 1024 * 1024;

/// Longest greeting: a few numbers, and the names of features.
const MAX_GREETING: u64 = 64 * 1024;

/// Why a client cannot be served on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or what came over it is not the protocol.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// The peer does not greet as a client does.
    #[error("this is no Nix client: it greets with {0:#x}")]
    NotAClient(u64),
    /// The client is too old, or of a time to come.
    #[error("the Nix client speaks protocol {0}; {min} to {max} are understood",
        min = Version::MIN, max = Version::MAX)]
    Version(Version),
    /// A request that cannot be answered; see [`ReadError`] for whether the next one can.
    #[error(transparent)]
    Request(ReadError),
    /// A request, or a greeting, longer than any.
    #[error("the request is longer than {0} bytes")]
    TooLong(u64),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Wire(error) => Error::Wire(error),
            other => Error::Request(other),
        }
    }
}

impl Error {
    /// Whether the client has gone, or stopped talking halfway.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Error::Wire(wire::Error::Io(_)))
    }
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Hello<'a> {
    /// The newest version it speaks.
    pub newest: Version,
    /// Its name and version, for people.
    pub name: &'a str,
    /// Whether it lets the client do what only trusted users may.
    pub trust: Trust,
}

/// A connection to a client, over whatever carries bytes both ways.
#[derive(Debug)]
pub struct Server<R, W: Write> {
    reader: BufReader<R>,
    writer: BufWriter<W>,
    store_dir: StoreDir,
    version: Version,
}

impl<R: Read, W: Write> Server<R, W> {
    /// Greets a client of the store at `store_dir`.
    pub fn accept(reader: R, writer: W, store_dir: StoreDir, hello: &Hello) -> Result<Self, Error> {
        let mut server = Self::meet(reader, writer, store_dir, hello)?;
        server.writer.write_number(LAST)?;
        server.flush()?;
        Ok(server)
    }

    /// Greets a client only to tell it why it is not served.
    pub fn turn_away(
        reader: R,
        writer: W,
        store_dir: StoreDir,
        hello: &Hello,
        why: &str,
    ) -> Result<(), Error> {
        Self::meet(reader, writer, store_dir, hello)?.refuse(why)
    }

    fn meet(reader: R, writer: W, store_dir: StoreDir, hello: &Hello) -> Result<Self, Error> {
        let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
        let version = within(&mut reader, MAX_GREETING, |from| receive(from, &mut writer, hello))?;
        Ok(Server { reader, writer, store_dir, version })
    }

    /// The version in use: the older of the two.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the store's paths are.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Waits until the client asks something; `false` when it hung up instead.
    pub fn wait(&mut self) -> Result<bool, Error> {
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(!bytes.is_empty()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Wire(e.into())),
            }
        }
    }

    /// The next request.
    pub fn request(&mut self) -> Result<Request, Error> {
        let (version, store_dir) = (self.version, &self.store_dir);
        within(&mut self.reader, MAX_REQUEST, |from| Ok(Request::read(from, version, store_dir)?))
    }

    /// Answers a request.
    pub fn answer(&mut self, answer: &Answer) -> Result<(), Error> {
        answer.write(&mut self.writer, self.version, &self.store_dir)?;
        self.flush()
    }

    /// Answers a request with bytes as they are: a NAR. Nothing has been sent yet when `write`
    /// begins, and what it has written is sent on its own when it is many.
    pub fn answer_raw<E: From<Error>>(
        &mut self,
        write: impl FnOnce(&mut BufWriter<W>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.writer.write_number(LAST).map_err(Error::Wire)?;
        write(&mut self.writer)?;
        Ok(self.flush()?)
    }

    /// Refuses a request.
    pub fn refuse(&mut self, why: &str) -> Result<(), Error> {
        write_error(&mut self.writer, self.version, why)?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(|e| Error::Wire(e.into()))
    }
}

/// Reads no more than `limit` bytes, and tells their end from the peer's.
fn within<R: Read, T>(
    reader: R,
    limit: u64,
    read: impl FnOnce(&mut Take<R>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut reader = reader.take(limit);
    match read(&mut reader) {
        Err(error) if error.is_disconnect() && reader.limit() == 0 => Err(Error::TooLong(limit)),
        other => other,
    }
}
