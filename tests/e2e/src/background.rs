//! A command that goes on while a test does other things, and what it says on stderr.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command. Killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the command starts");
        let stderr = child.stderr.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                heard.lock().expect("no panic").push(line);
            }
        });
        Self { child, lines, reader: Some(reader) }
    }

    /// What it has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }

    /// How many of its lines hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until it says something with `text` in it.
    pub fn wait_for(&self, text: &str) {
        eventually(&format!("it says `{text}`"), || self.count(text) > 0);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> (ExitStatus, Vec<String>) {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().expect("its status");
            status.is_some()
        });
        self.reader.take().expect("once").join().expect("no panic");
        (status.expect("it has ended"), self.lines())
    }

    /// Ends it as a service manager does. It must go without complaint.
    pub fn stop(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (status, lines) = self.end();
        assert!(status.success(), "{status}: {lines:#?}");
        lines
    }

    /// `kill -9`
    pub fn kill_nine(self) -> Vec<String> {
        self.signal(Signal::KILL);
        self.end().1
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Gone already, most of the time.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "after {PATIENCE:?} it is not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
