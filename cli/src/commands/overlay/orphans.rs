//! What a command leaves running: it comes to this process when its parent ends, and is ended.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

use crate::failure::{Context, Failure};

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// The duty to end them.
pub struct Orphans {
    /// Children from before, of a program whose place this one has taken.
    spared: HashSet<Pid>,
}

impl Orphans {
    /// From now on, descendants that lose their parent become children of this process.
    pub fn adopt() -> Result<Self, Failure> {
        let adopted = set_child_subreaper(Some(getpid())).map_err(io::Error::from);
        adopted.context(|| "cannot watch over the command's processes".to_owned())?;
        Ok(Self { spared: children().collect() })
    }

    /// Kills all children, and theirs. Whoever waits for one has to have done so.
    pub fn end(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<_> = children().filter(|child| !self.spared.contains(child)).collect();
            if left.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                tracing::warn!("{} processes go on in spite of SIGKILL", left.len());
                return;
            }
            for child in left {
                // One that has ended is only waited for.
                let _ = kill_process(child, Signal::KILL);
                let _ = waitpid(Some(child), WaitOptions::NOHANG);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// The children of this process.
fn children() -> impl Iterator<Item = Pid> {
    let own = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        (parent(&stat)? == own).then_some(pid)
    })
}

/// The fourth field of `/proc/PID/stat`, behind a name in brackets that may hold anything. Source:
/// proc(5).
fn parent(stat: &[u8]) -> Option<Pid> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let field = stat.get(end..)?.split(|&byte| byte == b' ').nth(2)?;
    Pid::from_raw(std::str::from_utf8(field).ok()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let parent = |stat: &[u8]| parent(stat).map(Pid::as_raw_pid);
        assert_eq!(parent(b"71 (sh) S 70 71 70 0 -1"), Some(70));
        assert_eq!(parent(b"71 (a) S 1 (b c) S 70 71"), Some(70));
        assert_eq!(parent(b"1 (init) S 0 1"), None);
        assert_eq!(parent(b""), None);
    }

    #[test]
    fn a_child_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children().any(|pid| pid == Pid::from_child(&child)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(children().all(|pid| pid != Pid::from_child(&child)));
    }
}
