//! Going to the background: the command starts itself in the foreground, and ends when that is ready.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::failure::{Context, Failure};
use crate::output::warn;

/// What the mount says when it is ready.
pub const READY: &str = "ready";

/// After so long a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest part of the log that is shown when the mount fails.
const SHOWN: u64 = 16 * 1024;

/// Starts the same command in the foreground, as a process of its own, which logs to `log`. Returns
/// when the mount is ready, or tells why it is not.
pub fn start(log: &Path, cache: &str) -> Result<(), Failure> {
    let context = || format!("cannot log to {}: choose another file with --log", log.display());
    if let Some(dir) = log.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(context)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(log);
    let mut file = file.context(context)?;
    let begin = file.seek(SeekFrom::End(0)).context(context)?;
    let program = env::current_exe().context(|| "cannot start in the background".to_owned())?;
    let mut arguments: Vec<_> = env::args_os().skip(1).collect();
    if arguments.first().is_none_or(|first| first != "mount") {
        arguments.insert(0, "mount".into());
    }
    let mut child = Command::new(program)
        .args(arguments)
        .args(["--foreground", "--tell-ready"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone().context(context)?)
        // Signals of the terminal are not for it.
        .process_group(0)
        .spawn()
        .context(|| "cannot start in the background".to_owned())?;
    let (sender, said) = mpsc::channel();
    let out = child.stdout.take();
    thread::spawn(move || {
        let mut line = String::new();
        let read = out.map_or(Ok(0), |out| BufReader::new(out).read_line(&mut line));
        // Nobody hears it if the command was ended.
        let _ = sender.send(read.map(|_| line));
    });
    let line = match said.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => {
            warn(&format!("waiting for {cache}"));
            said.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
        line => line,
    };
    let line = line.context(|| "cannot hear from the mount".to_owned())?;
    let line = line.context(|| "cannot hear from the mount".to_owned())?;
    if line.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().context(|| "cannot hear from the mount".to_owned())?;
    let mut said = Vec::new();
    let shown = file.seek(SeekFrom::Start(begin)).and_then(|_| {
        (&file).take(SHOWN).read_to_end(&mut said)?;
        io::stderr().write_all(&said)
    });
    shown.context(|| format!("cannot read {}", log.display()))?;
    Err(Failure::new(format!("the mount ended before it was ready ({status})")))
}
