//! Progress of opening a store: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use castore::OpenProgress;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// What takes less is not worth a word.
const SILENCE: Duration = Duration::from_millis(500);

/// Shows how far opening has come.
pub struct OpenBar {
    bar: Option<ProgressBar>,
    phase: &'static str,
    started: Instant,
    last_line: Option<Instant>,
}

impl OpenBar {
    /// Nothing to show yet.
    pub fn new() -> Self {
        Self { bar: None, phase: "", started: Instant::now(), last_line: None }
    }

    /// Takes news in.
    pub fn update(&mut self, progress: OpenProgress) {
        let (phase, done, total) = match progress {
            OpenProgress::Rebuilding { done, total } => ("reading packs", done, total),
            OpenProgress::Replaying { done, total } => ("replaying facts", done, total),
        };
        if self.started.elapsed() < SILENCE {
            return;
        }
        if io::stderr().is_terminal() {
            if self.phase != phase {
                self.finish();
                let bar = ProgressBar::new(total);
                let style = ProgressStyle::with_template(
                    "rebuilding the index: {msg} [{bar:30}] {pos}/{len} {eta}",
                );
                if let Ok(style) = style {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(phase);
                self.bar = Some(bar);
            }
            if let Some(bar) = &self.bar {
                bar.set_length(total);
                bar.set_position(done);
            }
        } else if self.phase != phase
            || done == total
            || self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY)
        {
            let _ = writeln!(io::stderr(), "rebuilding the index: {phase} {done}/{total}");
            self.last_line = Some(Instant::now());
        }
        self.phase = phase;
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
