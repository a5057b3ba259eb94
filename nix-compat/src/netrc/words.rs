//! The words of a netrc, and where they are.

use std::ops::Range;

/// A word. It may be a password: it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Without its quotes.
    pub text: String,
    /// With them.
    pub place: Range<usize>,
}

/// The words of a file, in order.
pub(super) struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Words { bytes, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Moves on to the first byte that is such, or to the end.
    fn skip_to(&mut self, is_end: impl Fn(&u8) -> bool) {
        self.at += self.rest().iter().position(is_end).unwrap_or(self.rest().len());
    }

    /// Moves past a macro's name and lines, to behind the next empty line.
    pub(super) fn skip_macro(&mut self) {
        while !self.rest().is_empty() {
            self.skip_to(|byte| *byte == b'\n');
            self.at += usize::from(!self.rest().is_empty());
            if self.rest().starts_with(b"\n") || self.rest().starts_with(b"\r\n") {
                return;
            }
        }
    }

    /// The text of a quoted word, up to its closing quote or the line's end.
    fn quoted(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        self.at += 1;
        while let Some(&byte) = self.rest().first() {
            match (byte, self.rest().get(1)) {
                (b'\n', _) => break,
                (b'"', _) => {
                    self.at += 1;
                    break;
                }
                (b'\\', Some(&escaped)) if escaped != b'\n' => {
                    text.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => other,
                    });
                    self.at += 2;
                }
                (byte, _) => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        text
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            self.skip_to(|byte| !byte.is_ascii_whitespace());
            let start = self.at;
            let text = match self.rest().first()? {
                b'#' => {
                    self.skip_to(|byte| *byte == b'\n');
                    continue;
                }
                b'"' => self.quoted(),
                _ => {
                    self.skip_to(u8::is_ascii_whitespace);
                    self.bytes.get(start..self.at).unwrap_or_default().to_vec()
                }
            };
            let text = String::from_utf8_lossy(&text).into_owned();
            return Some(Word { text, place: start..self.at });
        }
    }
}
