//! Takes away the files that a test process leaves behind, however that ends.
//!
//! What lives in a static is never dropped, and a killed process drops nothing at all. So a shell
//! waits for the end of its input, which comes when this process is gone.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Waits for the end of the process that made it.
#[derive(Debug)]
pub struct Keeper {
    /// Its input ends with this process.
    _shell: Child,
}

impl Keeper {
    /// Removes `dir` in the end.
    pub fn of(dir: &Path) -> Self {
        // Whoever uses it ends with this process, too, but needs a moment for that.
        let script =
            "cat >/dev/null; for try in 1 2 3 4 5; do rm -rf \"$0\" && break; sleep 1; done";
        let mut command = Command::new("/bin/sh");
        // A group of its own: a runner that kills a test's group should not kill this.
        command.args(["-c", script]).arg(dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { _shell: command.spawn().expect("a shell") }
    }
}
