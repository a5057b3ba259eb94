//! `nix.conf`: what it sets, and edits that leave everything else as it is.
//!
//! A line sets something, `name = word word …`, or includes another file,
//! `include path` or `!include path` (which may be missing). A `#` starts a
//! comment wherever it stands. Of two lines for a setting the later counts,
//! whereas `extra-name` adds to what the lines before it set. So an `extra-`
//! line says nothing when a plain line comes after it.
//!
//! Edits work on bytes: a word goes into a line or out of it, a line to the end
//! or away. What was added, removed again, leaves the bytes there were before.
//! Included files are neither read nor edited.
//!
//! Source: the Nix manual, "nix.conf"; tried with Nix 2.8.0 and 2.34.8.

use std::ops::Range;

/// A `nix.conf`, as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NixConf(Vec<u8>);

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// Nothing, or only a comment.
    Blank,
    /// The name of another file to be read in its place.
    Include {
        /// The file.
        path: &'a [u8],
        /// Whether it may be missing.
        optional: bool,
    },
    /// A setting.
    Setting {
        /// Its name, with `extra-` where that is there.
        name: &'a [u8],
        /// The words of its value.
        words: Vec<&'a [u8]>,
    },
    /// What Nix refuses.
    Malformed,
}

/// Why an edit was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one word of a nix.conf.
    #[error("{0:?} cannot stand in nix.conf: it is empty, or has spaces or a # in it")]
    Word(String),
    /// The setting has another value, which is not ours to replace.
    #[error("nix.conf sets {name} to {value:?} already")]
    Conflict {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
}

/// One line's tokens, by their places in the file.
struct Tokens {
    /// The line with its newline.
    line: Range<usize>,
    tokens: Vec<Range<usize>>,
}

impl NixConf {
    /// The configuration with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        NixConf(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What each line says.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.tokens().map(|tokens| self.line(&tokens))
    }

    /// The words that are in force for a setting, given without `extra-`: those
    /// of its last line and of the `extra-` lines after it.
    pub fn words(&self, name: &str) -> Vec<&[u8]> {
        self.lines_in_force(name).flat_map(|(_, tokens)| self.values(&tokens)).collect()
    }

    /// Adds a word to a list: to the setting's last line in force, else in a new
    /// line at the end. Says whether it was not there before. `name` is
    /// `extra-substituters` for one; without `extra-` the new line replaces
    /// what Nix has as its default.
    pub fn add_word(&mut self, name: &str, word: &str) -> Result<bool, Error> {
        check_word(word)?;
        if self.words(plain_name(name)).contains(&word.as_bytes()) {
            return Ok(false);
        }
        // An empty line is left alone, so that taking the word out again need
        // not know whether the line was there before.
        let last = self
            .lines_in_force(plain_name(name))
            .filter(|(extra, tokens)| {
                *extra == name.starts_with(EXTRA) && !self.values(tokens).is_empty()
            })
            .last();
        match last.and_then(|(_, tokens)| tokens.tokens.last().map(|token| token.end)) {
            Some(end) => drop(self.0.splice(end..end, format!(" {word}").into_bytes())),
            None => self.append(&format!("{name} = {word}")),
        }
        Ok(true)
    }

    /// Removes a word from a setting's lines in force, and lines of which
    /// nothing is left. Says whether it was there.
    pub fn remove_word(&mut self, name: &str, word: &str) -> bool {
        let mut cuts: Vec<Range<usize>> = Vec::new();
        for (extra, Tokens { line, tokens }) in self.lines_in_force(plain_name(name)) {
            let is_word = |token: &Range<usize>| self.bytes(token) == word.as_bytes();
            let values = tokens.get(2..).unwrap_or_default();
            if extra != name.starts_with(EXTRA) || !values.iter().any(is_word) {
                continue;
            }
            if values.iter().all(is_word) {
                let whole = self.whole_line(&line);
                // The newline before it may be gone with the line before it.
                let start = cuts.last().map_or(0, |cut| cut.end).max(whole.start);
                cuts.push(start..whole.end);
                continue;
            }
            // With the space before it, which is what adding it put there.
            let pairs = tokens.iter().zip(tokens.iter().skip(1)).skip(1);
            cuts.extend(pairs.filter(|(_, w)| is_word(w)).map(|(before, w)| before.end..w.end));
        }
        for cut in cuts.iter().rev() {
            self.0.drain(cut.clone());
        }
        !cuts.is_empty()
    }

    /// Sets what has one value, `netrc-file` for one, where nothing sets it.
    /// Says whether that was so; another value there is a conflict.
    /// [`NixConf::remove_word`] takes it back.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, Error> {
        check_word(value)?;
        match self.words(name).as_slice() {
            [] => {
                self.append(&format!("{name} = {value}"));
                Ok(true)
            }
            [there] if *there == value.as_bytes() => Ok(false),
            there => {
                let value = String::from_utf8_lossy(&there.join(&b' ')).into_owned();
                Err(Error::Conflict { name: name.to_owned(), value })
            }
        }
    }

    /// Adds a line at the end, with a newline after it if that is how the file
    /// ended before.
    fn append(&mut self, line: &str) {
        match self.0.last() {
            None | Some(b'\n') => self.0.extend([line, "\n"].concat().bytes()),
            Some(_) => self.0.extend(["\n", line].concat().bytes()),
        }
    }

    /// A line with the newline that goes when it goes: its own, or else, at the
    /// end of a file that ends without one, the one before it.
    fn whole_line(&self, line: &Range<usize>) -> Range<usize> {
        let own = self.bytes(line).ends_with(b"\n");
        line.start.saturating_sub(usize::from(!own))..line.end
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.0.get(range.clone()).unwrap_or_default()
    }

    fn values(&self, tokens: &Tokens) -> Vec<&[u8]> {
        tokens.tokens.iter().skip(2).map(|token| self.bytes(token)).collect()
    }

    fn tokens(&self) -> impl Iterator<Item = Tokens> {
        let mut end = 0;
        self.0.split_inclusive(|byte| *byte == b'\n').map(move |line| {
            let start = end;
            end += line.len();
            let code = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            let mut at = start;
            let mut tokens = Vec::new();
            for token in code.split(u8::is_ascii_whitespace) {
                if !token.is_empty() {
                    tokens.push(at..at + token.len());
                }
                at += token.len() + 1;
            }
            Tokens { line: start..end, tokens }
        })
    }

    fn line(&self, tokens: &Tokens) -> Line<'_> {
        let words: Vec<_> = tokens.tokens.iter().map(|token| self.bytes(token)).collect();
        match words.as_slice() {
            [] => Line::Blank,
            [b"include", path] => Line::Include { path, optional: false },
            [b"!include", path] => Line::Include { path, optional: true },
            [name, b"=", words @ ..] => Line::Setting { name, words: words.to_vec() },
            _ => Line::Malformed,
        }
    }

    /// The lines that make up a setting's value, and whether each is an
    /// `extra-` line.
    fn lines_in_force(&self, name: &str) -> impl Iterator<Item = (bool, Tokens)> {
        let mut lines = Vec::new();
        for tokens in self.tokens() {
            let Line::Setting { name: found, .. } = self.line(&tokens) else { continue };
            match found.strip_prefix(EXTRA.as_bytes()) {
                Some(found) if is_setting(found, name) => lines.push((true, tokens)),
                None if is_setting(found, name) => lines = vec![(false, tokens)],
                _ => {}
            }
        }
        lines.into_iter()
    }
}

const EXTRA: &str = "extra-";

fn plain_name(name: &str) -> &str {
    name.strip_prefix(EXTRA).unwrap_or(name)
}

/// Whether a name is that of the setting, or one from before Nix 2.0.
fn is_setting(found: &[u8], name: &str) -> bool {
    let old = match name {
        "substituters" => "binary-caches",
        "trusted-public-keys" => "binary-cache-public-keys",
        _ => name,
    };
    found == name.as_bytes() || found == old.as_bytes()
}

fn check_word(word: &str) -> Result<(), Error> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '#';
    if word.is_empty() || word.contains(bad) { Err(Error::Word(word.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
