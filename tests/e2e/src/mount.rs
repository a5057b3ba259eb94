//! `granary mount` as a child process.

use crate::background::Background;
use crate::granary::Home;
use crate::places;
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted cache. Taken away when dropped, whatever has become of its process.
#[derive(Debug)]
pub struct Mount {
    process: Option<Background>,
    at: PathBuf,
}

/// What a mount says it has fetched.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// Chunks.
    pub chunks: u64,
    /// Bytes, as they travelled.
    pub bytes: u64,
    /// Requests.
    pub questions: u64,
}

impl Mount {
    /// Mounts a cache at a new folder in the home, and waits until it is there.
    pub fn start(home: &Home, cache: &str, name: &str, arguments: &[&str]) -> Self {
        let at = home.path(name);
        std::fs::create_dir_all(&at).expect("a folder");
        let place = at.to_str().expect("UTF-8");
        let arguments = [&["mount", cache, place, "--foreground"], arguments].concat();
        let process = Background::start(&mut home.command(&places::granary(), &arguments));
        let mount = Self { process: Some(process), at };
        mount.process().wait_for(" is at ");
        mount
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Ends it as a service manager does. What it has fetched.
    pub fn stop(mut self) -> Fetched {
        let lines = self.process.take().expect("it runs").stop();
        assert!(!is_mounted(&self.at), "it is still mounted");
        Fetched::in_log(&lines)
    }

    fn process(&self) -> &Background {
        self.process.as_ref().expect("it runs until it is stopped")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Not mounted any more, most of the time.
        let _ = unmount(&self.at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

impl Fetched {
    /// What the last lines of a log say.
    pub fn in_log<S: AsRef<str>>(lines: &[S]) -> Self {
        let line = lines.iter().map(AsRef::as_ref).rfind(|line| line.contains("unmounting"));
        let line = line.expect("a mount says at its end what it has fetched");
        let number = |name: &str| {
            let number = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} {line}"))
        };
        let (chunks, bytes) = (number("chunks="), number("bytes="));
        Self { chunks, bytes, questions: number("questions=") }
    }
}

/// Whether something is mounted at a path or below it.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("Linux");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.map(Path::new).any(|point| point.starts_with(path))
}

/// A command in a mount namespace of its own, in which `prelude` mounts first. It begins with the
/// environment of `command`.
pub fn in_namespace(command: &Command, prelude: &str) -> Command {
    let mut inside = Command::new("/usr/bin/unshare");
    inside.args(["--mount", "--propagation", "private", "/bin/sh", "-c"]);
    inside.arg(format!("set -eu; {prelude}; exec \"$@\"")).arg("sh");
    inside.arg(command.get_program()).args(command.get_args()).env_clear();
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside
}
