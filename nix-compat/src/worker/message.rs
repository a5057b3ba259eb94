//! What a daemon says before it answers: log lines, activities, and errors.
//!
//! Each is a number and what belongs to it; the last is `LAST` or an error.

use std::fmt;
use std::io::{Read, Write};

use super::wire::{Error as WireError, ReadWire, WriteWire};
use super::{Error, Version};

/// Closes the messages: the answer follows.
pub const LAST: u64 = 0x616c_7473;
/// Closes the messages: there is no answer.
pub const ERROR: u64 = 0x6378_7470;
/// A log line.
pub const NEXT: u64 = 0x6f6c_6d67;
/// The daemon wants data.
pub const READ: u64 = 0x6461_7461;
/// The daemon has data.
pub const WRITE: u64 = 0x6461_7416;
/// Something that takes time begins.
pub const START_ACTIVITY: u64 = 0x5354_5254;
/// It is over.
pub const STOP_ACTIVITY: u64 = 0x5354_4f50;
/// It has something to show.
pub const RESULT: u64 = 0x5253_4c54;

/// A message. Activities are read to their end, and say nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The answer follows.
    Last,
    /// There is no answer.
    Error(RemoteError),
    /// A log line, without its colours.
    Log(String),
    /// The daemon wants up to this many bytes.
    Read(u64),
    /// The daemon has these bytes.
    Write(Vec<u8>),
    /// The start, the end, or a result of an activity.
    Activity,
}

/// An error of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// What it says, without colours and control characters.
    pub message: String,
    /// What it was about when that happened, the outermost first.
    pub traces: Vec<String>,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.traces.iter().try_for_each(|trace| write!(f, "; {trace}"))
    }
}

impl Message {
    /// The next message.
    pub fn read(from: &mut impl Read, version: Version) -> Result<Message, Error> {
        let number = from.read_number()?;
        Ok(match number {
            LAST => Message::Last,
            ERROR => Message::Error(read_error(from, version)?),
            NEXT => Message::Log(plain(&from.read_lossy()?)),
            READ => Message::Read(from.read_number()?),
            WRITE => Message::Write(from.read_bytes()?),
            START_ACTIVITY => {
                // Activity, level, type.
                for _ in 0..3 {
                    from.read_number()?;
                }
                from.read_bytes()?;
                skip_fields(from)?;
                let _parent = from.read_number()?;
                Message::Activity
            }
            STOP_ACTIVITY => {
                from.read_number()?;
                Message::Activity
            }
            RESULT => {
                // Activity, type.
                for _ in 0..2 {
                    from.read_number()?;
                }
                skip_fields(from)?;
                Message::Activity
            }
            _ => return Err(Error::Message(number)),
        })
    }
}

fn read_error(from: &mut impl Read, version: Version) -> Result<RemoteError, WireError> {
    if !version.at_least(26) {
        let message = plain(&from.read_lossy()?);
        let _status = from.read_number()?;
        return Ok(RemoteError { message, traces: Vec::new() });
    }
    let _type = from.read_bytes()?;
    let _level = from.read_number()?;
    let _name = from.read_bytes()?;
    let message = plain(&from.read_lossy()?);
    // Positions were announced, and have never been sent.
    let _position = from.read_number()?;
    let mut traces = Vec::new();
    for _ in 0..from.read_list_len()? {
        let _position = from.read_number()?;
        traces.push(plain(&from.read_lossy()?));
    }
    Ok(RemoteError { message, traces })
}

/// Writes an error.
pub(super) fn write_error(
    to: &mut impl Write,
    version: Version,
    message: &str,
) -> Result<(), WireError> {
    to.write_number(ERROR)?;
    if !version.at_least(26) {
        to.write_bytes(message)?;
        // The status to exit with.
        return to.write_number(1);
    }
    to.write_bytes("Error")?;
    // The level: an error.
    to.write_number(0)?;
    to.write_bytes("Error")?;
    to.write_bytes(message)?;
    // Neither a position nor traces.
    to.write_number(0)?;
    to.write_number(0)
}

/// The fields of an activity, numbers and strings.
fn skip_fields(from: &mut impl Read) -> Result<(), Error> {
    for _ in 0..from.read_list_len()? {
        match from.read_number()? {
            0 => {
                from.read_number()?;
            }
            1 => {
                from.read_bytes()?;
            }
            kind => return Err(Error::Message(kind)),
        }
    }
    Ok(())
}

/// A text for people without its colours (`ESC [ … m`) and control characters,
/// so that a daemon cannot write to the terminal of who reads it.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            if chars.as_str().starts_with('[') {
                let _ = chars.find(|c| c.is_ascii_alphabetic());
            }
        } else if c == '\n' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::wire::WriteWire;

    /// A number or a string on the wire.
    enum Word<'a> {
        N(u64),
        S(&'a str),
    }
    use Word::{N, S};

    fn bytes(words: &[Word]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in words {
            match word {
                N(number) => out.write_number(*number).unwrap(),
                S(text) => out.write_bytes(text).unwrap(),
            }
        }
        out
    }

    fn read(words: &[Word], minor: u8) -> Message {
        let bytes = bytes(words);
        let mut input = bytes.as_slice();
        let message = Message::read(&mut input, Version { major: 1, minor }).unwrap();
        assert!(input.is_empty(), "{} bytes were left", input.len());
        message
    }

    #[test]
    fn each_message_is_read_to_its_end() {
        assert_eq!(read(&[N(LAST)], 38), Message::Last);
        assert_eq!(
            read(&[N(NEXT), S("a \x1b[35;1mpath\x1b[0m")], 38),
            Message::Log("a path".into())
        );
        assert_eq!(read(&[N(READ), N(7)], 38), Message::Read(7));
        assert_eq!(read(&[N(WRITE), S("data")], 38), Message::Write(b"data".into()));
        let fields = [N(2), N(0), N(9), N(1), S("field")];
        let start = [N(START_ACTIVITY), N(1), N(2), N(3), S("what")];
        let mut words = Vec::from(start);
        words.extend(fields);
        words.push(N(0));
        assert_eq!(read(&words, 38), Message::Activity);
        assert_eq!(read(&[N(STOP_ACTIVITY), N(1)], 38), Message::Activity);
        assert_eq!(read(&[N(RESULT), N(1), N(101), N(1), N(1), S("line")], 38), Message::Activity);
    }

    #[test]
    fn errors_have_two_forms() {
        let error = |message: &str, traces: &[&str]| {
            let traces = traces.iter().map(ToString::to_string).collect();
            Message::Error(RemoteError { message: message.into(), traces })
        };
        let old = [N(ERROR), S("path is not valid"), N(1)];
        assert_eq!(read(&old, 25), error("path is not valid", &[]));
        let new = [
            N(ERROR),
            S("Error"),
            N(0),
            S("Error"),
            S("no such \x1b[1mthing\x1b[0m"),
            N(0),
            N(2),
            N(0),
            S("while looking"),
            N(0),
            S("while starting"),
        ];
        let expected = error("no such thing", &["while looking", "while starting"]);
        assert_eq!(read(&new, 26), expected);
        let Message::Error(shown) = expected else { panic!("an error") };
        assert_eq!(shown.to_string(), "no such thing; while looking; while starting");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let read = |words: &[Word]| Message::read(&mut bytes(words).as_slice(), Version::MAX);
        assert!(matches!(read(&[N(42)]), Err(Error::Message(42))));
        assert!(matches!(read(&[N(RESULT), N(1), N(1), N(1), N(2)]), Err(Error::Message(2))));
        assert!(matches!(read(&[N(NEXT)]), Err(Error::Wire(_))));
    }
}
