//! A NAR writer that cannot write a wrong NAR.
//!
//! The calls mirror [`Event`](super::Event): directories are entered and left,
//! each node has the name it has in its directory (empty for the root), names
//! ascend. The writer walks no file system; it is told what is there.
//!
//! ```
//! use nix_compat::nar::Writer;
//!
//! # fn main() -> Result<(), nix_compat::nar::writer::Error> {
//! let mut nar = Writer::new(Vec::new());
//! nar.enter_directory(b"")?;
//! nar.file(b"greeting", false, 6, &mut &b"hello\n"[..])?;
//! nar.symlink(b"link", b"greeting")?;
//! nar.leave_directory()?;
//! let bytes = nar.finish()?;
//! # assert_eq!(bytes.len() % 8, 0);
//! # Ok(())
//! # }
//! ```

use std::io::{self, Read, Write};

use super::framing;
use super::rules::{Limits, Quoted, Violation, check_target};
use super::trail::Trail;

/// Framing is sent on once it is this long, so that a tree of many small
/// nodes costs few writes.
const FLUSH_LEN: usize = 64 * 1024;

/// How much of a file is in memory at once while it is copied.
const COPY_LEN: usize = 256 * 1024;

/// Why a NAR could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name, a target or the shape of the tree is not allowed.
    #[error("cannot put {} in a NAR: {violation}", Quoted(.path))]
    Violation {
        /// The latest node written.
        path: Vec<u8>,
        /// What is wrong with the node after it.
        violation: Violation,
    },
    /// The calls were not in the order of a tree.
    #[error("NAR nodes written out of order: {0}")]
    Order(&'static str),
    /// A file had fewer or more bytes than announced.
    #[error("{} was announced with {announced} bytes, but has {}", Quoted(.path),
        if *.longer { "more".to_owned() } else { format!("{written}") })]
    Size {
        /// The file.
        path: Vec<u8>,
        /// Bytes announced.
        announced: u64,
        /// Bytes written.
        written: u64,
        /// Whether there were more bytes to come than announced.
        longer: bool,
    },
    /// The contents of a file could not be read.
    #[error("cannot read {}", Quoted(.path))]
    Source {
        /// The file.
        path: Vec<u8>,
        /// What its reader said.
        source: io::Error,
    },
    /// The NAR could not be written on.
    #[error("cannot write the NAR")]
    Sink(#[source] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The root is next.
    Root,
    /// An entry, or the end of the innermost open directory, is next.
    Entries,
    /// Contents of a file.
    Contents { remaining: u64, size: u64 },
    /// The root is complete.
    Done,
    /// An error left the archive incomplete.
    Failed,
}

/// Writes one NAR to `W`. See the [module](self). After an error the archive
/// is incomplete, and every further call fails.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    framing: Vec<u8>,
    sent: u64,
    limits: Limits,
    trail: Trail,
    state: State,
}

impl<W: Write> Writer<W> {
    /// Starts a NAR on `inner`, which needs no buffer of its own.
    pub fn new(inner: W) -> Self {
        Self::with_limits(inner, Limits::default())
    }

    /// Starts a NAR on `inner` under other limits than the default ones.
    pub fn with_limits(inner: W, limits: Limits) -> Self {
        let mut framing = Vec::new();
        framing::start(&mut framing);
        Writer { inner, framing, sent: 0, limits, trail: Trail::default(), state: State::Root }
    }

    /// Opens a directory; its entries follow.
    pub fn enter_directory(&mut self, name: &[u8]) -> Result<(), Error> {
        self.node(name)?;
        if let Err(violation) = self.trail.open(&self.limits) {
            return Err(self.violation(violation));
        }
        framing::directory_open(&mut self.framing);
        self.state = State::Entries;
        Ok(())
    }

    /// Closes the innermost open directory.
    pub fn leave_directory(&mut self) -> Result<(), Error> {
        if self.state != State::Entries {
            return Err(self.order("there is no directory to leave here"));
        }
        framing::directory_close(&mut self.framing);
        self.trail.close();
        self.node_done()
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Error> {
        self.node(name)?;
        let checked =
            self.limits.check_target_len(target.len() as u64).and_then(|()| check_target(target));
        if let Err(violation) = checked {
            return Err(self.violation(violation));
        }
        framing::symlink(&mut self.framing, target);
        self.node_done()
    }

    /// Writes a regular file with the `size` bytes that `contents` gives. It
    /// must give exactly as many: a file that changes while it is read is
    /// an error, not a wrong NAR.
    pub fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        contents: &mut impl Read,
    ) -> Result<(), Error> {
        self.begin_file(name, executable, size)?;
        // One byte more than announced, to see whether there is more.
        let len = usize::try_from(size).map_or(COPY_LEN, |s| s.min(COPY_LEN - 1) + 1);
        let mut buf = vec![0; len];
        loop {
            match contents.read(&mut buf) {
                Ok(0) => return self.end_file(),
                Ok(n) => self.write_contents(buf.get(..n).unwrap_or(&buf))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.state = State::Failed;
                    return Err(Error::Source { path: self.trail.path().to_vec(), source });
                }
            }
        }
    }

    /// Opens a regular file of `size` bytes, which
    /// [`Writer::write_contents`] then takes in pieces.
    pub fn begin_file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<(), Error> {
        self.node(name)?;
        framing::file_open(&mut self.framing, executable, size);
        self.state = State::Contents { remaining: size, size };
        Ok(())
    }

    /// Writes a piece of the contents of the open file.
    pub fn write_contents(&mut self, piece: &[u8]) -> Result<(), Error> {
        let State::Contents { remaining, size } = self.state else {
            return Err(self.order("there is no open file to write to"));
        };
        let Some(left) = remaining.checked_sub(piece.len() as u64) else {
            return Err(self.wrong_size(size, size, true));
        };
        self.state = State::Contents { remaining: left, size };
        // Small files travel with the framing, large pieces on their own.
        if self.framing.len() + piece.len() <= FLUSH_LEN {
            self.framing.extend_from_slice(piece);
            return Ok(());
        }
        self.flush_framing()?;
        match self.inner.write_all(piece) {
            Ok(()) => {
                self.sent += piece.len() as u64;
                Ok(())
            }
            Err(e) => Err(self.sink(e)),
        }
    }

    /// Closes the open file, of which all contents must have been written.
    pub fn end_file(&mut self) -> Result<(), Error> {
        match self.state {
            State::Contents { remaining: 0, size } => {
                framing::file_close(&mut self.framing, size);
                self.node_done()
            }
            State::Contents { remaining, size } => {
                Err(self.wrong_size(size, size - remaining, false))
            }
            _ => Err(self.order("there is no open file to end")),
        }
    }

    /// Bytes of the NAR so far. Straight after [`Writer::begin_file`] it is
    /// the offset of the file's contents.
    pub fn position(&self) -> u64 {
        self.sent + self.framing.len() as u64
    }

    /// Checks that the tree is complete, flushes, and gives the inner writer
    /// back.
    pub fn finish(mut self) -> Result<W, Error> {
        if self.state != State::Done {
            return Err(self.order("the tree is not complete"));
        }
        self.flush_framing()?;
        match self.inner.flush() {
            Ok(()) => Ok(self.inner),
            Err(e) => Err(self.sink(e)),
        }
    }

    /// Writes what comes before a node: the name, unless it is the root.
    fn node(&mut self, name: &[u8]) -> Result<(), Error> {
        match self.state {
            State::Root if name.is_empty() => Ok(()),
            State::Root => Err(self.order("the root of a NAR has no name")),
            State::Entries => {
                let len = name.len() as u64;
                let checked = self.limits.check_name_len(len).and_then(|()| self.trail.entry(name));
                if let Err(violation) = checked {
                    return Err(self.violation(violation));
                }
                framing::entry_open(&mut self.framing, name);
                Ok(())
            }
            State::Contents { .. } => Err(self.order("the file before it was not ended")),
            State::Done => Err(self.order("the root of the NAR is complete")),
            State::Failed => Err(self.order("writing went on after an error")),
        }
    }

    fn node_done(&mut self) -> Result<(), Error> {
        if self.trail.depth() == 0 {
            self.state = State::Done;
        } else {
            framing::entry_close(&mut self.framing);
            self.state = State::Entries;
        }
        if self.framing.len() >= FLUSH_LEN { self.flush_framing() } else { Ok(()) }
    }

    fn flush_framing(&mut self) -> Result<(), Error> {
        if let Err(e) = self.inner.write_all(&self.framing) {
            return Err(self.sink(e));
        }
        self.sent += self.framing.len() as u64;
        self.framing.clear();
        Ok(())
    }

    fn violation(&mut self, violation: Violation) -> Error {
        self.state = State::Failed;
        Error::Violation { path: self.trail.path().to_vec(), violation }
    }

    fn wrong_size(&mut self, announced: u64, written: u64, longer: bool) -> Error {
        self.state = State::Failed;
        Error::Size { path: self.trail.path().to_vec(), announced, written, longer }
    }

    fn order(&mut self, what: &'static str) -> Error {
        self.state = State::Failed;
        Error::Order(what)
    }

    fn sink(&mut self, source: io::Error) -> Error {
        self.state = State::Failed;
        Error::Sink(source)
    }
}
