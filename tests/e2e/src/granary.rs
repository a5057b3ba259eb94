//! The `granary` client as a child process, with a home of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::closure::Closure;
use crate::nix::{ChrootStore, Version};
use crate::places;

/// A user's home: what `granary` and Nix read and write there, and nothing of this machine's.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    version: Version,
    login: Option<(String, String)>,
}

/// A `granary push` that runs. Killed when dropped.
#[derive(Debug)]
pub struct Pushing {
    child: Child,
    peak: u64,
}

impl Home {
    /// A new home. The system's `nix.conf` names no substituters.
    pub fn new(version: Version) -> Self {
        let home = Self { dir: places::scratch(), version, login: None };
        fs::create_dir_all(home.path("etc")).expect("a folder");
        let conf = "experimental-features = nix-command\nsubstituters =\nsandbox = false\n\
                    build-users-group =\nfsync-metadata = false\n";
        fs::write(home.path("etc/nix.conf"), conf).expect("written");
        home
    }

    /// The same, with server and token in the environment, as in CI.
    pub fn with_token(version: Version, server: &str, token: &str) -> Self {
        Self { login: Some((server.to_owned(), token.to_owned())), ..Self::new(version) }
    }

    /// Something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `granary login`, the token on stdin.
    pub fn login(&self, name: &str, server: &str, token: &str) {
        let mut child = self
            .command(&places::granary(), &["login", name, server, "--token-stdin"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("granary runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(token.as_bytes()).expect("it reads the token");
        drop(stdin);
        assert!(child.wait().expect("its end").success(), "granary login {name} {server}");
    }

    /// `granary` with these arguments.
    pub fn granary(&self, arguments: &[&str]) -> Output {
        self.command(&places::granary(), arguments).output().expect("granary runs")
    }

    /// What it writes when it succeeds, which it has to.
    pub fn granary_ok(&self, arguments: &[&str]) -> String {
        said(&self.granary(arguments), arguments)
    }

    /// The same with `--json`.
    pub fn granary_json(&self, arguments: &[&str]) -> Value {
        let text = self.granary_ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// What it complains of when it fails, which it has to.
    pub fn granary_refused(&self, arguments: &[&str]) -> String {
        let output = self.granary(arguments);
        assert!(!output.status.success(), "{arguments:?} worked");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// `granary push` of a closure. What it reports.
    pub fn push(&self, cache: &str, closure: &Closure) -> Value {
        let report = self.granary_json(&["push", cache, &closure.top, "--store", root(closure)]);
        assert_eq!(report["failed"].as_array().map(Vec::len), Some(0), "{report:#}");
        report
    }

    /// Starts the same.
    pub fn start_push(&self, cache: &str, closure: &Closure) -> Pushing {
        let arguments = ["push", cache, &closure.top, "--store", root(closure), "--json"];
        let mut command = self.command(&places::granary(), &arguments);
        let child = command.stdout(Stdio::null()).spawn().expect("granary runs");
        Pushing { child, peak: 0 }
    }

    /// A path with all that it refers to, by substitution from what the home's files say and
    /// nowhere else. `None` if Nix does not get it.
    pub fn substitute(&self, path: &str) -> Option<ChrootStore> {
        let store = ChrootStore::empty();
        let mut command = self.command(&self.version.bin().join("nix-store"), &["--realise", path]);
        command.env("NIX_REMOTE", format!("local?root={}", store.root().display()));
        let output = command.output().expect("nix runs");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        output.status.success().then_some(store)
    }

    /// Adds a file or folder to the store in `root`: its store path.
    pub fn add_to_store(&self, root: &Path, what: &Path) -> String {
        let what = what.to_str().expect("UTF-8");
        let mut command = self.command(&self.version.bin().join("nix-store"), &["--add", what]);
        command.env("NIX_REMOTE", format!("local?root={}", root.display()));
        said(&command.output().expect("nix runs"), &["--add", what]).trim().to_owned()
    }

    /// A program with the home's environment and nothing of this machine's.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.version.bin().display()))
            .env("HOME", self.dir.path())
            .env("NIX_CONF_DIR", self.path("etc"))
            .stdin(Stdio::null());
        if let Some((server, token)) = &self.login {
            command.env("GRANARY_SERVER", server).env("GRANARY_TOKEN", token);
        }
        command
    }
}

impl Pushing {
    /// `kill -9`.
    pub fn kill_nine(mut self) {
        self.child.kill().expect("it has not ended yet");
        self.child.wait().expect("its end");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let peak = status.unwrap_or_default();
        let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
        self.peak = self.peak.max(kilobytes.unwrap_or(0u64) * 1024);
        self.child.try_wait().expect("its status").is_none()
    }

    /// Waits for its success. The most memory it had, in bytes.
    pub fn finish(mut self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(300);
        while self.runs() {
            assert!(Instant::now() < deadline, "the push does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "the push ended with {status}");
        self.peak
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        // Gone already, most of the time.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn root(closure: &Closure) -> &str {
    closure.root.to_str().expect("UTF-8")
}

fn said(output: &Output, arguments: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
