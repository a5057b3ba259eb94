//! Progress of work that is measured in bytes or in things: a bar on a terminal, a line now and then
//! elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use crate::output::note;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// What takes less is not worth a word.
const SILENCE: Duration = Duration::from_millis(500);

/// Shows how far a piece of work has come.
pub struct WorkBar {
    what: &'static str,
    started: Instant,
    last_line: Instant,
    /// `None` where there is no terminal, or nothing to show yet.
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl WorkBar {
    /// Nothing to show yet. `what` is what is being done, as in `reading packs`.
    pub fn new(what: &'static str) -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        Self { what, started: now, last_line: now, bar: None, terminal }
    }

    /// So many bytes of so many, and so many packs of so many.
    pub fn bytes(&mut self, bytes: u64, bytes_total: u64, packs: u64, packs_total: u64) {
        let template = "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {eta}";
        if let Some(bar) = self.bar(template) {
            bar.set_length(bytes_total);
            bar.set_position(bytes);
        } else if self.is_time() {
            let (done, total) = (DecimalBytes(bytes), DecimalBytes(bytes_total));
            note(&format!("{}: {done} of {total}, {packs} of {packs_total} packs", self.what));
        }
    }

    /// So many things; nobody knows how many there are.
    pub fn count(&mut self, done: u64) {
        if let Some(bar) = self.bar("{spinner} {msg} {pos}") {
            bar.set_position(done);
        } else if self.is_time() {
            note(&format!("{}: {done}", self.what));
        }
    }

    /// Takes the bar away.
    pub fn finish(mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&mut self, template: &str) -> Option<&ProgressBar> {
        if !self.terminal || self.started.elapsed() < SILENCE {
            return None;
        }
        Some(self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(0).with_message(self.what);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        }))
    }

    /// Whether another line is due, where there are lines.
    fn is_time(&mut self) -> bool {
        let due = !self.terminal && self.last_line.elapsed() >= LINE_EVERY;
        if due {
            self.last_line = Instant::now();
        }
        due
    }
}
