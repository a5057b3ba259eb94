//! netrc files: the passwords that Nix sends to caches, and edits that leave
//! everything else as it is.
//!
//! A file is words: `machine HOST`, or `default` for any host, then `login
//! NAME`, `password SECRET` and `account NAME` in any order, on one line or
//! many. A word may stand in double quotes, with backslashes before quotes. A
//! word that starts with `#` starts a comment to the end of its line. `macdef
//! NAME` starts a macro for ftp that goes on to the next empty line. The first
//! entry for a host counts, `default` for any, so one for a host after it says
//! nothing.
//!
//! An entry of ours is put before all others, and is known by its login. The
//! entries of other logins are not touched, for the same host neither. What was
//! added, removed again, leaves the bytes there were before.
//!
//! Passwords are in no error and no debug output.
//!
//! Source: curl's manual, "netrc", which is what Nix uses; netrc(5).

mod words;

use std::fmt;
use std::ops::Range;

use words::{Word, Words};

/// A netrc, as its bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Netrc {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Who a host is told one is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name; empty if the entry has none.
    pub login: String,
    /// The password, a token mostly. It is not in the debug output.
    pub password: String,
}

/// What setting a password did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There is a new entry.
    Added,
    /// The entry has another password now.
    Replaced,
    /// It was like this before.
    Unchanged,
}

/// Why a file was not read or edited. None holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A login, password or account before any machine, so that it would be
    /// that of a new entry.
    #[error("line {0} of the netrc has a login, password or account that belongs to no machine")]
    NoMachine(usize),
    /// A host, login or password that netrcs cannot have without quotes.
    #[error("the {0} cannot stand in a netrc: it is empty, or has spaces, quotes or a # in it")]
    Word(&'static str),
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    /// Nothing for `default`.
    machine: Option<String>,
    login: Option<Word>,
    password: Option<Word>,
    /// Each keyword with its value.
    pairs: Vec<Range<usize>>,
}

impl Entry {
    fn is_for(&self, machine: &str) -> bool {
        self.machine.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(machine))
    }

    fn is_own(&self, machine: &str, login: &str) -> bool {
        self.machine.is_some()
            && self.is_for(machine)
            && self.login.as_ref().is_some_and(|word| word.text == login)
    }

    fn start(&self) -> usize {
        self.pairs.first().map_or(0, |pair| pair.start)
    }
}

impl Netrc {
    /// Reads a file.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let bytes = bytes.into();
        let entries = entries(&bytes)?;
        Ok(Netrc { bytes, entries })
    }

    /// The bytes. They hold passwords: a file of them is for its owner only.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is sent to this host.
    pub fn credentials(&self, machine: &str) -> Option<Credentials> {
        let entry = self.entries.iter().find(|entry| entry.is_for(machine))?;
        let text = |word: &Option<Word>| word.as_ref().map(|w| w.text.clone()).unwrap_or_default();
        Some(Credentials { login: text(&entry.login), password: text(&entry.password) })
    }

    /// Makes this the login and password for a host: in the entry with this
    /// login if it is the one that counts, else in a new one.
    pub fn set_password(
        &mut self,
        machine: &str,
        login: &str,
        password: &str,
    ) -> Result<Change, Error> {
        for (what, word) in [("host", machine), ("login", login), ("password", password)] {
            check_word(what, word)?;
        }
        let counts = self.entries.iter().find(|entry| entry.is_for(machine));
        let (at, text, change) = match counts.filter(|entry| entry.is_own(machine, login)) {
            Some(Entry { password: Some(word), .. }) if word.text == password => {
                return Ok(Change::Unchanged);
            }
            Some(Entry { password: Some(word), .. }) => {
                (word.place.clone(), password.to_owned(), Change::Replaced)
            }
            Some(Entry { login: Some(word), .. }) => {
                let end = word.place.end;
                (end..end, format!(" password {password}"), Change::Replaced)
            }
            _ => {
                let start = self.first_line();
                let line = format!("machine {machine} login {login} password {password}\n");
                (start..start, line, Change::Added)
            }
        };
        self.bytes.splice(at, text.into_bytes());
        self.entries = entries(&self.bytes)?;
        Ok(change)
    }

    /// Removes the first entry for this host with this login. Says whether
    /// there was one.
    pub fn remove(&mut self, machine: &str, login: &str) -> Result<bool, Error> {
        let Some(at) = self.entries.iter().position(|entry| entry.is_own(machine, login)) else {
            return Ok(false);
        };
        let cuts = self.entries.remove(at).pairs;
        self.bytes = without(&self.bytes, &cuts);
        self.entries = entries(&self.bytes)?;
        Ok(true)
    }

    /// Where a new first entry goes: the line of the first one there is, so
    /// that what stands above stays above.
    fn first_line(&self) -> usize {
        let start = self.entries.first().map_or(0, Entry::start);
        let before = self.bytes.get(..start).unwrap_or_default();
        let line = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let indent = before.get(line..).unwrap_or_default();
        if indent.iter().all(u8::is_ascii_whitespace) { line } else { 0 }
    }
}

/// The bytes without those ranges, which are in order, and without the lines of
/// which nothing else is left.
fn without(bytes: &[u8], cuts: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut start = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_kept = |at: &usize| !cuts.iter().any(|cut| cut.contains(at));
        let kept: Vec<u8> =
            (start..).zip(line).filter(|(at, _)| is_kept(at)).map(|(_, b)| *b).collect();
        if kept.len() == line.len() || !kept.iter().all(u8::is_ascii_whitespace) {
            out.extend(kept);
        }
        start += line.len();
    }
    out
}

fn entries(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words = Words::new(bytes);
    while let Some(keyword) = words.next() {
        let start = keyword.place.start;
        let entry =
            |machine, place| Entry { machine, login: None, password: None, pairs: vec![place] };
        match keyword.text.to_ascii_lowercase().as_str() {
            "machine" => {
                let Some(name) = words.next() else { break };
                entries.push(entry(Some(name.text), start..name.place.end));
            }
            "default" => entries.push(entry(None, keyword.place)),
            "macdef" => words.skip_macro(),
            field @ ("login" | "password" | "account") => {
                let Some(value) = words.next() else { break };
                let line = || 1 + bytes.iter().take(start).filter(|byte| **byte == b'\n').count();
                let last = entries.last_mut().ok_or_else(|| Error::NoMachine(line()))?;
                last.pairs.push(start..value.place.end);
                // Of two, the later counts.
                match field {
                    "login" => last.login = Some(value),
                    "password" => last.password = Some(value),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(entries)
}

fn check_word(what: &'static str, word: &str) -> Result<(), Error> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "\"\\#".contains(c);
    if word.is_empty() || word.contains(bad) { Err(Error::Word(what)) } else { Ok(()) }
}

impl fmt::Debug for Netrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machines = self.entries.iter().map(|e| e.machine.as_deref().unwrap_or("(default)"));
        f.write_str("Netrc ")?;
        f.debug_list().entries(machines).finish()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
