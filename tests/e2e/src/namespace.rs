//! Mount namespaces, and what is mounted in ours.

use std::path::Path;
use std::process::Command;

/// Whether something is mounted at a path or below it.
pub fn is_mounted_below(path: &Path) -> bool {
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
