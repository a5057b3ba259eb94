//! The input of the NAR reader: a window on the archive, and the primitives
//! of its encoding.

use std::fmt;
use std::io::{self, Read};

use super::Problem;
use crate::nar::framing::padding;
use crate::nar::rules::Violation;
use crate::nar::tokens::Token;

/// Large enough that a read costs little per byte, small enough to stay in a
/// core's second-level cache between reading and use.
pub(super) const BUFFER_LEN: usize = 256 * 1024;

/// An error that does not know its place yet.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed(Problem),
    Io(io::Error),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Fault::Malformed(problem)
    }
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Fault::Malformed(violation.into())
    }
}

/// A window on the archive.
///
/// `start <= end <= buf.len()` always; `buf[start..end]` is what has been read
/// but not consumed, and `base` is the archive's offset of `buf[0]`.
pub(super) struct Buffered<R> {
    inner: R,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    base: u64,
}

impl<R> fmt::Debug for Buffered<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered")
            .field("position", &(self.base + self.start as u64))
            .field("available", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

impl<R: Read> Buffered<R> {
    pub fn new(inner: R) -> Self {
        Buffered { inner, buf: vec![0; BUFFER_LEN], start: 0, end: 0, base: 0 }
    }

    /// Offset in the archive of the first byte not consumed.
    #[inline]
    pub fn position(&self) -> u64 {
        self.base + self.start as u64
    }

    /// Offset in the archive of the first byte not read.
    pub fn end_position(&self) -> u64 {
        self.base + self.end as u64
    }

    #[inline]
    pub fn available(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `n` bytes at hand, or all if there are fewer.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }

    /// Reads once, so that at least one more byte is at hand, after making
    /// room for `room` bytes from the current position on.
    pub fn read_more(&mut self, room: usize) -> Result<(), Fault> {
        if self.read_some(room)? == 0 { Err(Problem::Truncated.into()) } else { Ok(()) }
    }

    fn read_some(&mut self, room: usize) -> Result<usize, Fault> {
        if self.start == self.end || self.start + room > self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.base += self.start as u64;
            self.end -= self.start;
            self.start = 0;
            if room > self.buf.len() {
                self.buf.resize(room, 0);
            }
        }
        let free = self.buf.get_mut(self.end..).unwrap_or_default();
        let n = read(&mut self.inner, free)?;
        self.end += n;
        Ok(n)
    }

    /// Reads into the caller's buffer rather than this one, which must be
    /// used up.
    pub fn read_past(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        match read(&mut self.inner, out)? {
            0 => Err(Problem::Truncated.into()),
            n => {
                self.base += n as u64;
                Ok(n)
            }
        }
    }

    /// Whether there is nothing left.
    pub fn at_end(&mut self) -> Result<bool, Fault> {
        Ok(self.start == self.end && self.read_some(1)? == 0)
    }

    /// Whether `token` comes next. It is not consumed.
    #[inline]
    pub fn looking_at(&mut self, token: Token) -> Result<bool, Fault> {
        loop {
            let available = self.available();
            if available.len() >= token.bytes.len() {
                return Ok(available.starts_with(token.bytes));
            }
            if !token.bytes.starts_with(available) {
                return Ok(false);
            }
            self.read_more(token.bytes.len())?;
        }
    }

    /// Consumes `token` if it comes next.
    #[inline]
    pub fn accept(&mut self, token: Token) -> Result<bool, Fault> {
        let found = self.looking_at(token)?;
        if found {
            self.consume(token.bytes.len());
        }
        Ok(found)
    }

    /// Consumes `token`, which must come next.
    #[inline]
    pub fn expect(&mut self, token: Token) -> Result<(), Fault> {
        if self.accept(token)? { Ok(()) } else { Err(Problem::Expected(token.what).into()) }
    }

    /// Consumes the length of a string.
    #[inline]
    pub fn length(&mut self) -> Result<u64, Fault> {
        loop {
            if let Some(bytes) = self.available().first_chunk() {
                let length = u64::from_le_bytes(*bytes);
                self.consume(8);
                return Ok(length);
            }
            self.read_more(8)?;
        }
    }

    /// Consumes a string of `len` bytes, which the caller has found to be
    /// within its limits, with its padding.
    pub fn string(&mut self, len: usize) -> Result<&[u8], Fault> {
        let padding = padding(len as u64);
        while self.available().len() < len + padding {
            self.read_more(len + padding)?;
        }
        self.consume(len);
        self.skip_padding(padding)?;
        Ok(self.last_string(len))
    }

    /// The string of `len` bytes that [`Buffered::string`] gave last, if
    /// nothing was read since.
    pub fn last_string(&self, len: usize) -> &[u8] {
        let end = self.start.saturating_sub(padding(len as u64));
        self.buf.get(end.saturating_sub(len)..end).unwrap_or_default()
    }

    /// Consumes `n` zero bytes.
    #[inline]
    pub fn skip_padding(&mut self, n: usize) -> Result<(), Fault> {
        while self.available().len() < n {
            self.read_more(n)?;
        }
        if self.available().iter().take(n).any(|&b| b != 0) {
            return Err(Problem::Padding.into());
        }
        self.consume(n);
        Ok(())
    }
}

fn read(inner: &mut impl Read, out: &mut [u8]) -> Result<usize, Fault> {
    loop {
        match inner.read(out) {
            // A reader that claims more than it was given room for is broken.
            Ok(n) => return Ok(n.min(out.len())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Fault::Io(e)),
        }
    }
}
