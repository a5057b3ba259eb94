//! Asking the person at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Asks for a line. `None` where there is no terminal to ask at.
pub fn ask(question: &str) -> io::Result<Option<String>> {
    let Some(mut terminal) = open() else { return Ok(None) };
    write!(terminal, "{question}")?;
    read_line(&terminal).map(Some)
}

/// Asks for a line that is not shown while it is typed.
pub fn ask_hidden(question: &str) -> io::Result<Option<String>> {
    let Some(mut terminal) = open() else { return Ok(None) };
    write!(terminal, "{question}")?;
    let line = {
        let _hidden = Hidden::new(&terminal)?;
        read_line(&terminal)?
    };
    // The one that was typed was not shown.
    writeln!(terminal)?;
    Ok(Some(line))
}

/// The terminal of this process, whatever stdin and stdout are.
fn open() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

fn read_line(terminal: &File) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Turns the echo off for as long as it lives.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // Flush: what was typed before the question is no answer.
        tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing better can be done than to have tried.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
