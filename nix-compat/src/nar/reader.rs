//! A strict pull parser for NARs of any size, in bounded memory.
//!
//! [`Reader::next`] gives the nodes of the tree in archive order. After an
//! [`Event::File`] the contents can be taken in place from the reader's own
//! buffer ([`Reader::fill_contents`], [`Reader::consume_contents`]) or as a
//! [`Read`] ([`Reader::contents`]); what is not taken is skipped.
//!
//! The invariant: a NAR that was read to the end, [`Reader::finish`] included,
//! is byte for byte the one archive of the tree its events describe. So
//! padding is zero, entries are sorted, and nothing follows the end.

mod buffered;
mod error;

pub use error::{Error, Place, Problem};

use std::io::{self, BufRead, Read};

use self::buffered::{BUFFER_LEN, Buffered, Fault};
use super::framing::padding;
use super::rules::{Limits, check_target};
use super::tokens as t;
use super::trail::Trail;

/// A node of the tree. `name` is its name in its directory, empty for the
/// root; it has been checked to be a single path component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory. Its entries follow, up to its [`Event::LeaveDirectory`].
    EnterDirectory {
        /// Name in the directory around it.
        name: &'a [u8],
    },
    /// The end of the innermost open directory.
    LeaveDirectory,
    /// A regular file, whose contents are next in the archive.
    File {
        /// Name in the directory around it.
        name: &'a [u8],
        /// Whether it is executable.
        executable: bool,
        /// Bytes of contents, as claimed: a truncated archive has fewer.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Name in the directory around it.
        name: &'a [u8],
        /// What it points to: not empty, free of NUL.
        target: &'a [u8],
    },
}

/// What comes next in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// The type of the latest node.
    Node,
    /// Entries, or the end, of the innermost open directory.
    Entries,
    /// `remaining` bytes of contents, then the padding of `size` bytes, then
    /// the end of the file's node.
    Contents {
        remaining: u64,
        size: u64,
    },
    /// The end of a symlink's node.
    AfterTarget,
    /// A node is complete: the end of its entry, or of the NAR.
    AfterNode,
    Failed,
}

/// A strict pull parser for NARs. See the [module](self).
#[derive(Debug)]
pub struct Reader<R> {
    input: Buffered<R>,
    limits: Limits,
    trail: Trail,
    state: State,
}

impl<R: Read> Reader<R> {
    /// Reads a NAR from `inner`, which needs no buffer of its own.
    pub fn new(inner: R) -> Self {
        Self::with_limits(inner, Limits::default())
    }

    /// Reads a NAR from `inner` under other limits than the default ones.
    pub fn with_limits(inner: R, limits: Limits) -> Self {
        Reader { input: Buffered::new(inner), limits, trail: Trail::default(), state: State::Start }
    }

    /// The next node, or `None` at the end of the archive. Contents of the
    /// file before it that were not consumed are skipped.
    // Not `Iterator::next`: an event borrows from the reader.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        match self.advance() {
            Ok(None) => Ok(None),
            Ok(Some(step)) => Ok(Some(self.event(step))),
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// The contents of the current file that are at hand: empty only at their
    /// end (and when the latest event was no file). Never more than the file
    /// has left.
    #[inline]
    pub fn fill_contents(&mut self) -> Result<&[u8], Error> {
        let remaining = match self.state {
            State::Contents { remaining, .. } => remaining,
            State::Failed => return Err(self.fail(Problem::AfterError.into())),
            _ => return Ok(&[]),
        };
        if remaining > 0
            && self.input.available().is_empty()
            && let Err(fault) = self.input.read_more(1)
        {
            return Err(self.fail(fault));
        }
        let available = self.input.available();
        let len = usize::try_from(remaining).map_or(available.len(), |r| r.min(available.len()));
        Ok(available.get(..len).unwrap_or_default())
    }

    /// Marks the first `n` bytes of what [`Reader::fill_contents`] gave as
    /// used. A larger `n` counts as all of it.
    #[inline]
    pub fn consume_contents(&mut self, n: usize) {
        if let State::Contents { remaining, .. } = &mut self.state {
            let n = n.min(self.input.available().len());
            let n = usize::try_from(*remaining).map_or(n, |r| r.min(n));
            *remaining -= n as u64;
            self.input.consume(n);
        }
    }

    /// The contents of the current file as a [`Read`] and [`BufRead`]. Its
    /// errors carry an [`Error`] as their source.
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    /// Bytes of the NAR consumed so far. Straight after an [`Event::File`] it
    /// is the offset of the file's contents.
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// The path of the latest node relative to the root, names joined by `/`;
    /// empty for the root.
    pub fn path(&self) -> &[u8] {
        self.trail.path()
    }

    /// How many directories are open.
    pub fn depth(&self) -> usize {
        self.trail.depth()
    }

    /// Reads what is left of the archive, checks that nothing follows it, and
    /// gives its length in bytes.
    pub fn finish(mut self) -> Result<u64, Error> {
        while self.next()?.is_some() {}
        match self.input.at_end() {
            Ok(true) => Ok(self.position()),
            Ok(false) => Err(self.fail(Problem::TrailingBytes.into())),
            Err(fault) => Err(self.fail(fault)),
        }
    }

    fn fail(&mut self, fault: Fault) -> Error {
        // Between entries the latest node is past: the fault is the directory's.
        let between = self.state == State::Entries;
        let path = if between { self.trail.directory() } else { self.trail.path() };
        let mut at = Place { offset: self.position(), path: path.to_vec() };
        self.state = State::Failed;
        match fault {
            Fault::Malformed(problem) => {
                if problem == Problem::Truncated {
                    at.offset = self.input.end_position();
                }
                Error::Malformed { at, problem }
            }
            Fault::Io(source) => {
                at.offset = self.input.end_position();
                Error::Io { at, source }
            }
        }
    }

    fn event(&self, step: Step) -> Event<'_> {
        let name = self.trail.name();
        match step {
            // The new directory is open already and has no entry yet: its own
            // name is the last component of the path.
            Step::Directory { name_len } => {
                let path = self.trail.path();
                let start = path.len().saturating_sub(name_len);
                Event::EnterDirectory { name: path.get(start..).unwrap_or_default() }
            }
            Step::Leave => Event::LeaveDirectory,
            Step::File { executable, size } => Event::File { name, executable, size },
            Step::Symlink { len } => Event::Symlink { name, target: self.input.last_string(len) },
        }
    }

    fn advance(&mut self) -> Result<Option<Step>, Fault> {
        match self.state {
            State::Start => {
                self.input.expect(t::MAGIC)?;
                self.state = State::Node;
                return self.node().map(Some);
            }
            // `node` leaves this state unless it fails.
            State::Node | State::Failed => return Err(Problem::AfterError.into()),
            State::Entries => {}
            State::Contents { size, .. } => {
                self.skip_contents()?;
                self.input.skip_padding(padding(size))?;
                self.input.expect(t::CLOSE)?;
                self.state = State::AfterNode;
            }
            State::AfterTarget => {
                self.input.expect(t::CLOSE)?;
                self.state = State::AfterNode;
            }
            State::AfterNode => {}
        }
        if self.state == State::AfterNode {
            if self.trail.depth() == 0 {
                return Ok(None);
            }
            self.input.expect(t::CLOSE)?;
            self.state = State::Entries;
        }
        if self.input.accept(t::CLOSE)? {
            self.trail.close();
            self.state = State::AfterNode;
            return Ok(Some(Step::Leave));
        }
        if !self.input.looking_at(t::ENTRY)? {
            return Err(Problem::Expected("\"entry\" or \")\"").into());
        }
        self.input.expect(t::ENTRY_NAME)?;
        let len = self.input.length()?;
        self.limits.check_name_len(len)?;
        // Within the limit, which is a usize.
        let len = len as usize;
        let name = self.input.string(len)?;
        self.trail.entry(name)?;
        self.input.expect(t::ENTRY_NODE)?;
        self.state = State::Node;
        self.node().map(Some)
    }

    /// Reads a node up to its first entry or byte of contents, or a symlink
    /// up to its end.
    fn node(&mut self) -> Result<Step, Fault> {
        self.input.expect(t::NODE)?;
        if self.input.accept(t::REGULAR)? {
            let executable = self.input.looking_at(t::EXECUTABLE)?;
            if executable {
                self.input.expect(t::EXECUTABLE)?;
            }
            self.input.expect(t::CONTENTS)?;
            let size = self.input.length()?;
            self.state = State::Contents { remaining: size, size };
            Ok(Step::File { executable, size })
        } else if self.input.accept(t::DIRECTORY)? {
            let name_len = self.trail.name().len();
            self.trail.open(&self.limits)?;
            self.state = State::Entries;
            Ok(Step::Directory { name_len })
        } else if self.input.accept(t::SYMLINK)? {
            self.input.expect(t::TARGET)?;
            let len = self.input.length()?;
            self.limits.check_target_len(len)?;
            // Within the limit, which is a usize.
            let len = len as usize;
            check_target(self.input.string(len)?)?;
            self.state = State::AfterTarget;
            Ok(Step::Symlink { len })
        } else {
            Err(Problem::Expected("\"regular\", \"directory\" or \"symlink\"").into())
        }
    }

    fn skip_contents(&mut self) -> Result<(), Fault> {
        while let State::Contents { remaining: 1.., .. } = self.state {
            if self.input.available().is_empty() {
                self.input.read_more(1)?;
            }
            self.consume_contents(usize::MAX);
        }
        Ok(())
    }
}

/// An [`Event`] before it borrows.
enum Step {
    Directory { name_len: usize },
    Leave,
    File { executable: bool, size: u64 },
    Symlink { len: usize },
}

/// The contents of one file, from [`Reader::contents`].
#[derive(Debug)]
pub struct Contents<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        // A caller with a buffer as large as ours does without ours.
        if let State::Contents { remaining: remaining @ 1.., .. } = &mut reader.state
            && out.len() >= BUFFER_LEN
            && reader.input.available().is_empty()
        {
            let len = usize::try_from(*remaining).map_or(out.len(), |r| r.min(out.len()));
            return match reader.input.read_past(out.get_mut(..len).unwrap_or_default()) {
                Ok(n) => {
                    *remaining -= n as u64;
                    Ok(n)
                }
                Err(fault) => Err(reader.fail(fault).into()),
            };
        }
        let mut available = self.fill_buf()?;
        let n = available.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: Read> BufRead for Contents<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.0.fill_contents()?)
    }

    fn consume(&mut self, n: usize) {
        self.0.consume_contents(n);
    }
}
