//! What `tests/setup` provides: three versions of Nix, and closures. Stores here are copies of
//! their databases, which is all that a daemon looks at to answer.

use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;

/// Each version of Nix, and the folder of its programs.
pub fn versions() -> [(&'static str, PathBuf); 3] {
    let tools = tools();
    [
        ("2.8.", PathBuf::from("/usr/bin")),
        ("2.26.", tools.join("nix-trixie/bin")),
        ("2.34.", tools.join("nix-forky/bin")),
    ]
}

fn tools() -> PathBuf {
    let given = std::env::var_os("GRANARY_TEST_TOOLS");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tools = top.join(given.unwrap_or_else(|| "target/test-tools".into()));
    assert!(tools.is_dir(), "{} is missing: run tests/setup", tools.display());
    tools
}

/// A chroot store that has a closure's database and none of its files.
pub struct Store {
    dir: TempDir,
    /// The path that refers to all others of the closure.
    pub top: StorePath,
    /// The closure, as `tests/setup` found it.
    pub closure: Vec<StorePath>,
}

impl Store {
    pub fn of(preset: &str) -> Self {
        let closure = tools().join("closures").join(preset);
        let read = |name: &str| {
            let path = closure.join(name);
            fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{}: {e}: run tests/setup", path.display()))
        };
        let parse = |path: &str| StorePath::from_absolute(path, &StoreDir::default()).unwrap();
        let store = Store {
            dir: tempfile::tempdir().unwrap(),
            top: parse(read("A.top").trim()),
            closure: read("A.tsv").lines().map(|l| parse(l.split('\t').next().unwrap())).collect(),
        };
        let database = store.root().join("nix/var/nix/db");
        fs::create_dir_all(&database).unwrap();
        fs::create_dir_all(store.root().join("nix/store")).unwrap();
        // Two connections at once would both make it, and one of them would fail.
        fs::create_dir_all(store.root().join("nix/var/nix/gcroots")).unwrap();
        let original = closure.join("root/nix/var/nix/db");
        for name in ["db.sqlite", "schema"] {
            fs::copy(original.join(name), database.join(name)).unwrap();
        }
        store
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The spec that reads the database.
    pub fn spec(&self) -> String {
        self.root().display().to_string()
    }

    /// Changes the database.
    pub fn sql(&self, sql: &str) {
        const SCRIPT: &str =
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
        let database = self.root().join("nix/var/nix/db/db.sqlite");
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(database).arg(sql);
        assert!(command.status().expect("python3 runs: run tests/setup").success());
    }
}

/// A daemon of a store.
pub struct Daemon {
    child: Child,
    _home: TempDir,
    pub socket: PathBuf,
    root: PathBuf,
}

impl Daemon {
    pub fn start((version, bin): &(&str, PathBuf), store: &Store) -> Self {
        let home = tempfile::tempdir().unwrap();
        let conf = "build-users-group =\nexperimental-features = nix-command\nsubstituters =\n";
        fs::write(home.path().join("nix.conf"), conf).unwrap();
        let socket = home.path().join("socket");
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", home.path())
                .env("NIX_CONF_DIR", home.path())
                .env("NIX_REMOTE", format!("local?root={}", store.root().display()))
                .env("NIX_DAEMON_SOCKET_PATH", &socket)
                .stdin(Stdio::null());
            command
        };
        let said = command("nix")
            .arg("--version")
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}: run tests/setup", bin.join("nix").display()));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(version), "{said} is not {version}: run tests/setup");
        let child = command("nix-daemon").arg("--daemon").spawn().unwrap();
        let daemon = Daemon { child, socket, _home: home, root: store.root() };
        let started = Instant::now();
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the daemon {version} is not up");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// The spec that asks the daemon.
    pub fn spec(&self) -> String {
        format!("unix://{}?root={}", self.socket.display(), self.root.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket before a daemon's, whose connections can be cut.
pub struct Proxy {
    _dir: TempDir,
    pub socket: PathBuf,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Proxy {
    pub fn before(daemon: &Daemon) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let proxy = Proxy { _dir: dir, socket, open: Arc::clone(&open) };
        let behind = daemon.socket.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, daemon) = (client.unwrap(), UnixStream::connect(&behind).unwrap());
                pump(client.try_clone().unwrap(), daemon.try_clone().unwrap());
                pump(daemon, client.try_clone().unwrap());
                open.lock().unwrap().push(client);
            }
        });
        proxy
    }

    /// Cuts all connections, and says how many there were.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        open.len()
    }
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.flush();
        let _ = to.shutdown(Shutdown::Write);
    });
}
