//! How far a push has come: bars on a terminal, lines elsewhere, nothing where JSON is wanted.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use granary_client::http::{RemoteCache, Server};
use granary_client::push::{Plan, Step, Summary};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::output::note;

/// Bars at the same time. Paths beyond that only get their tick.
const MAX_BARS: usize = 8;
/// A path that takes less than this is not worth a bar, in bytes of NAR.
const WORTH_A_BAR: u64 = 1024 * 1024;

/// Shows how far a push has come.
pub struct Progress {
    header: String,
    nothing: bool,
    silent: bool,
    /// `None` where there is no terminal.
    bars: Option<MultiProgress>,
    running: Mutex<HashMap<usize, Running>>,
}

struct Running {
    started: Instant,
    /// Bytes of the NAR that are at the server.
    advanced: u64,
    /// Once something is sent, and there is room for it.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a plan; silent where JSON is wanted.
    pub fn new(plan: &Plan, remote: &RemoteCache, silent: bool) -> Self {
        let count = |n: usize| if n == 1 { "1 path".to_owned() } else { format!("{n} paths") };
        let nothing = plan.to_push.is_empty();
        let header = format!(
            "{} to {} ({} already there, {} upstream)",
            if nothing { "Nothing to push".to_owned() } else { count(plan.to_push.len()) },
            remote.url(),
            plan.present,
            plan.upstream
        );
        let terminal = io::stderr().is_terminal() && !silent;
        let bars = terminal.then(MultiProgress::new);
        Self { header, nothing, silent, bars, running: Mutex::default() }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match &self.bars {
            _ if self.silent => {}
            // The bars stay below what is said.
            Some(bars) => drop(bars.println(text)),
            None => note(text),
        }
    }

    /// The first line.
    pub fn header(&self, dry_run: bool) {
        match (self.nothing, dry_run) {
            (true, _) => self.say(&self.header),
            (_, true) => self.say(&format!("Would push {}", self.header)),
            (_, false) => self.say(&format!("Pushing {}", self.header)),
        }
    }

    /// Takes news of a path in.
    pub fn hear(&self, plan: &Plan, at: usize, step: Step) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(info) = plan.to_push.get(at) else { return };
        let name = info.store_path.to_string();
        match step {
            Step::Started => {
                let started = Instant::now();
                running.insert(at, Running { started, advanced: 0, bar: None });
            }
            Step::Advanced(bytes) => {
                let Some(bars) = &self.bars else { return };
                let shown = running.values().filter(|running| running.bar.is_some()).count();
                let Some(running) = running.get_mut(&at) else { return };
                running.advanced += bytes;
                let worth = info.nar_size >= WORTH_A_BAR && running.advanced < info.nar_size;
                if running.bar.is_none() && shown < MAX_BARS && worth {
                    running.bar = Some(bars.add(new_bar(&name, info.nar_size)));
                }
                if let Some(bar) = &running.bar {
                    bar.set_position(running.advanced);
                }
            }
            Step::Published => {
                let started = end(&mut running, at);
                let rate = rate(info.nar_size, started.elapsed());
                self.say(&format!("✓ {name} ({}, {rate})", HumanBytes(info.nar_size)));
            }
            Step::Failed(why) => {
                end(&mut running, at);
                self.say(&format!("✗ {name}: {why}"));
            }
        }
    }

    /// The last line.
    pub fn finish(&self, summary: &Summary, server: &Server, time: Duration) {
        if self.nothing {
            return;
        }
        let failed = match summary.failed.len() {
            0 => String::new(),
            n => format!(", {n} failed"),
        };
        self.say(&format!(
            "{} pushed{failed}: {} read, {} sent, {:.1} s",
            summary.published,
            HumanBytes(summary.read),
            HumanBytes(server.traffic().sent()),
            time.as_secs_f64()
        ));
    }
}

fn end(running: &mut HashMap<usize, Running>, at: usize) -> Instant {
    match running.remove(&at) {
        Some(Running { started, bar, .. }) => {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            started
        }
        None => Instant::now(),
    }
}

fn rate(bytes: u64, time: Duration) -> String {
    let mib = bytes as f64 / (1024.0 * 1024.0);
    format!("{:.1} MiB/s", mib / time.as_secs_f64().max(0.001))
}

fn new_bar(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let template =
        "  {msg:40!} [{bar:24}] {binary_bytes:>10}/{binary_total_bytes} {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    // The hash says nothing to people.
    bar.set_message(name.split_once('-').map_or(name, |(_, name)| name).to_owned());
    bar
}
