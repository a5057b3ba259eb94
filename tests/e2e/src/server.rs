//! The `granary` server as a child process.

use crate::backing::{self, Backing};
use crate::http::Http;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Long enough for a rebuild of the index on a busy machine.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// A running `granary serve`. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    start: Start,
    log: Arc<Mutex<Vec<String>>>,
    port: u16,
    token: String,
    public_key: String,
}

/// How it was started, and will be again.
#[derive(Debug, Clone)]
struct Start {
    data: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Server {
    /// Starts on `data` and waits until it listens.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(data: &Path, arguments: &[&str]) -> Self {
        Self::start_in(data, arguments, &[])
    }

    /// The same, on a port that nobody else is given while the server is down.
    pub fn start_on(data: &Path, port: u16, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self::spawn(Start { data: data.to_owned(), arguments, variables: Vec::new() }, port)
    }

    /// The same, with more arguments and more environment.
    pub fn start_in(data: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Self::spawn(Start { data: data.to_owned(), arguments, variables: variables.collect() }, 0)
    }

    fn spawn(start: Start, port: u16) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let mut command = backing::granary(&start.data, &["serve", "--listen", &listen]);
        let mut child = command
            .args(&start.arguments)
            .envs(start.variables.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, port) = mpsc::channel();
        // Both read on until the end: a full pipe would stop the server.
        keep_lines(stdout.expect("piped"), &log, move |line| {
            if let Some(port) = port_in(line) {
                // Only the first is waited for.
                let _ = found.send(port);
            }
        });
        keep_lines(stderr.expect("piped"), &log, |_| ());
        let port = port.recv_timeout(START).unwrap_or_else(|error| {
            let status = child.try_wait();
            drop(child.kill());
            panic!("the server printed no address ({error}); its status: {status:?}")
        });
        let read = |name: &str| {
            let path = start.data.join(name);
            let text = std::fs::read_to_string(&path);
            text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
        };
        let token = read("root-token");
        let public_key = read("public-key");
        Self { child, start, log, port, token, public_key }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The cache: `http://127.0.0.1:PORT/default`.
    pub fn url(&self) -> String {
        format!("{}/default", self.origin())
    }

    /// The token that may do everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// `name:base64`, as Nix's trusted-public-keys has it.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.start.data
    }

    /// What lies behind it.
    pub fn backing(&self) -> Backing {
        Backing::of(self.data())
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far, on stdout and stderr.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// A client that may do everything.
    pub fn http(&self) -> Http {
        Http::with_token(&self.url(), &self.token)
    }

    /// A client without a token.
    pub fn anonymous(&self) -> Http {
        Http::anonymous(&self.url())
    }

    /// The most memory it has had so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Ends it as a service manager does, and waits. It must go by itself and without complaint.
    pub fn stop(mut self) {
        self.terminate();
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a running server");
    }

    /// `kill -9`: no time for anything.
    pub fn kill_nine(mut self) {
        self.child.kill().expect("a running server");
        self.child.wait().expect("its end");
    }

    /// Stops it and starts another on the same data and port.
    pub fn restart(self) -> Self {
        self.restart_after(|_| ())
    }

    /// Stops it, does something with the data directory, and starts another on the same port.
    pub fn restart_after(mut self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.terminate();
        meanwhile(&self.start.data);
        Self::spawn(self.start.clone(), self.port)
    }

    /// Stops it, takes its index away and has it made anew, and starts another on the same port.
    pub fn restart_without_its_index(self) -> Self {
        self.restart_after(backing::lose_index)
    }

    /// `kill -9`, and another on the same data and port.
    pub fn restart_after_kill_nine(mut self) -> Self {
        self.child.kill().expect("a running server");
        self.child.wait().expect("its end");
        Self::spawn(self.start.clone(), self.port)
    }

    fn terminate(&mut self) {
        self.ask_to_stop();
        let deadline = Instant::now() + STOP;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                assert!(status.success(), "the server ended with {status}");
                return;
            }
            assert!(Instant::now() < deadline, "the server still runs {STOP:?} after SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already, most of the time.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Shows what comes, and keeps it.
fn keep_lines(
    from: impl Read + Send + 'static,
    log: &Arc<Mutex<Vec<String>>>,
    mut seen: impl FnMut(&str) + Send + 'static,
) {
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            eprintln!("granary: {line}");
            seen(&line);
            log.lock().expect("no panic").push(line);
        }
    });
}

fn port_in(line: &str) -> Option<u16> {
    let rest = &line[line.find("http://127.0.0.1:")? + "http://127.0.0.1:".len()..];
    rest[..rest.find('/')?].parse().ok()
}
