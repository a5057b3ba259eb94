//! Going to the background: the command starts itself in the foreground, and ends when that is ready.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure};

/// What the mount says when it is ready.
pub const READY: &str = "ready";

/// The longest part of the log that is shown when the mount fails.
const SHOWN: u64 = 16 * 1024;

/// Starts the same command in the foreground, as a process of its own, which logs to `log`. Returns
/// when the mount is ready, or tells why it is not.
pub fn start(log: &Path) -> Result<(), Failure> {
    let context = || format!("cannot log to {}: choose another file with --log", log.display());
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).context(context)?;
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(log);
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
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let read = BufReader::new(out).read_line(&mut line);
        read.context(|| "cannot hear from the mount".to_owned())?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().context(|| "cannot hear from the mount".to_owned())?;
    let mut said = String::new();
    let shown = file.seek(SeekFrom::Start(begin)).and_then(|_| {
        (&file).take(SHOWN).read_to_string(&mut said)?;
        io::stderr().write_all(said.as_bytes())
    });
    shown.context(|| format!("cannot read {}", log.display()))?;
    Err(Failure::new(format!("the mount ended before it was ready ({status})")))
}
