//! Where words go: results to stdout, everything else to stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Context, Failure};

/// Writes a result, with a newline after it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.context(|| "cannot write to stdout".to_owned())
}

/// Writes a result for a script.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    print(&text.context(|| "cannot write JSON".to_owned())?)
}

/// Says something that is not a result.
pub fn note(text: &str) {
    // Nobody may be listening, and the work is done all the same.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says that something is not as it should be.
pub fn warn(text: &str) {
    note(&format!("granary: warning: {text}"));
}
