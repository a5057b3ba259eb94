//! A PostgreSQL cluster of a test's own: made from a template within a second, and gone with the
//! test, however that ends. What it holds does not survive a loss of power.

mod template;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::keeper;

/// How long a server may take to start, or to stop when asked, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports to try: below those that the kernel gives to outgoing connections, so that nobody takes the
/// port while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A throw-away cluster that listens on 127.0.0.1. Dropped: killed and removed.
pub struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
    server: Mutex<Option<Child>>,
}

impl Postgres {
    /// Makes and starts a cluster.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("granary-pg-").tempdir().expect("a folder");
        // The server runs as another user when the test is root's.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("permissions");
        template::copy_to(&dir.path().join("data"));
        let mut cluster = Self { dir, port: 0, server: Mutex::new(None) };
        for _ in 0..10 {
            cluster.port = free_port();
            if cluster.run() {
                return cluster;
            }
        }
        panic!("PostgreSQL does not start; its log:\n{}", cluster.log());
    }

    /// The URL of the database that is always there.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Makes a database, and tells its URL.
    pub fn database(&self, name: &str) -> String {
        self.sql(&format!("CREATE DATABASE \"{name}\" STRATEGY = FILE_COPY"));
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs statements in the database `postgres`, and returns what psql prints: rows, unadorned.
    pub fn sql(&self, statements: &str) -> String {
        let mut psql = Command::new(programs().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements]);
        let output = psql.arg(self.url()).output().expect("psql runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Stops the server as an administrator would: clients are cut off, and it ends in order.
    pub fn stop(&self) {
        let mut server = self.server();
        let Some(mut child) = server.take() else { return };
        signal(child.id(), Signal::INT);
        let started = Instant::now();
        while child.try_wait().expect("the server can be waited for").is_none() {
            assert!(started.elapsed() < PATIENCE, "PostgreSQL does not stop:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// Kills the server and all its processes in the middle of whatever they do.
    pub fn kill_nine(&self) {
        let mut server = self.server();
        let Some(mut child) = server.take() else { return };
        let family = family(child.id());
        for pid in &family {
            signal(*pid, Signal::KILL);
        }
        child.wait().expect("the server can be waited for");
        // What is still dying holds the shared memory, which the next start would find in use.
        for pid in family {
            while alive(pid) {
                sleep(Duration::from_millis(2));
            }
        }
    }

    /// Stops the server if it runs, and starts it on the same port.
    pub fn restart(&self) {
        self.stop();
        assert!(self.run(), "PostgreSQL does not start again; its log:\n{}", self.log());
    }

    /// Lets all the server's processes stand still: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, what: Signal) {
        if let Some(child) = &*self.server() {
            family(child.id()).into_iter().for_each(|pid| signal(pid, what));
        }
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether the server has come up; it does not when somebody else has the port.
    fn run(&self) -> bool {
        let data = self.dir.path().join("data");
        let log = fs::File::create(self.dir.path().join("log")).expect("a log file");
        let mut command = as_postgres(&["--pdeathsig", "KILL"], "postgres");
        command.arg("-D").arg(&data).arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=16MB",
            // In its folder, which goes with it: of those in /dev/shm some stay when it is killed.
            "dynamic_shared_memory_type=mmap",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = keeper::spawn(command).expect("setpriv runs");
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if child.try_wait().expect("the server can be waited for").is_some() {
                return false;
            }
            if ready(&data, child.id()) {
                *self.server() = Some(child);
                return true;
            }
            sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill_nine();
    }
}

/// Whether the server says in its lock file that it takes connections: the eighth line.
fn ready(data: &Path, pid: u32) -> bool {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = file.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
}

fn free_port() -> u16 {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    let count = u64::from(PORTS.end - PORTS.start);
    (seed % count..count)
        .map(|offset| PORTS.start + offset as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap_or(PORTS.start)
}

/// The folder of PostgreSQL's programs, the newest there is.
fn programs() -> PathBuf {
    let version = |dir: &PathBuf| -> Option<u32> { dir.file_name()?.to_str()?.parse().ok() };
    fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.join("bin/postgres").exists())
        .max_by_key(version)
        .map(|dir| dir.join("bin"))
        .unwrap_or_else(|| panic!("there is no PostgreSQL here: run tests/setup"))
}

/// A program of PostgreSQL's, started by `setpriv` and, since PostgreSQL refuses to run as root,
/// as `postgres` if that is who runs the test.
fn as_postgres(setpriv: &[&str], program: &str) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(setpriv);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(programs().join(program)).current_dir("/");
    command
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    // The parent first: it would start anew what dies before it.
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// Whether a process runs, that is, is neither gone nor waited for.
fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn signal(pid: u32, what: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_server_starts_again_with_what_it_had() {
        let postgres = Postgres::start();
        postgres.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7); CHECKPOINT");
        postgres.kill_nine();
        postgres.restart();
        assert_eq!(postgres.sql("SELECT n FROM kept"), "7");
        assert!(postgres.database("other").ends_with("/other"));
    }

    #[test]
    fn nothing_is_left_of_a_dropped_cluster() {
        let postgres = Postgres::start();
        let (dir, pid) = (postgres.dir.path().to_owned(), postgres.server().as_ref().unwrap().id());
        let family = family(pid);
        assert!(family.len() > 3, "{family:?}");
        drop(postgres);
        assert!(!dir.exists());
        assert!(!family.into_iter().any(alive));
    }
}
