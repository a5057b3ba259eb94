//! Several servers that share one bucket and one database: an S3 server, PostgreSQL, and replicas
//! of `granary serve`, each with a data directory of its own and a copy of the same server key.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use granary_test_services::{Postgres, S3Server};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::backing::{self, Backing};
use crate::http::Http;
use crate::pulls::{Fetched, fetch};
use crate::{places, ports};

const BUCKET: &str = "granary";
/// Long enough for a busy machine.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// One `granary serve`, which may be dead at the moment. It keeps its port.
#[derive(Debug)]
pub struct Replica {
    data: PathBuf,
    arguments: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl Replica {
    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        let started = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.has_ended() {
                panic!("the server on port {} ended with {status}", self.port);
            }
            assert!(started.elapsed() < START, "port {} is not ready after {START:?}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server on port {} runs", self.port);
        let listen = format!("127.0.0.1:{}", self.port);
        let child = backing::granary(&self.data, &["serve", "--listen", &listen])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
    }

    fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().expect("its status")
    }

    /// Whether `/readyz` says so.
    pub fn is_ready(&self) -> bool {
        let answer = fetch(&self.origin(), "GET", "/readyz", None, &[]);
        matches!(answer, Fetched::Whole { status: 200, .. })
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The URL of a cache.
    pub fn url(&self, cache: &str) -> String {
        format!("{}/{cache}", self.origin())
    }

    /// A client of a cache that may do everything.
    pub fn http(&self, cache: &str) -> Http {
        Http::with_token(&self.url(cache), &self.token())
    }

    /// The token that may do everything. Every replica takes every other's.
    pub fn token(&self) -> String {
        self.read("root-token")
    }

    /// The first cache's key, as Nix has it.
    pub fn public_key(&self) -> String {
        self.read("public-key")
    }

    fn read(&self, name: &str) -> String {
        let path = self.data.join(name);
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// `kill -9`: no time for anything.
    pub fn kill_nine(&mut self) {
        let mut child = self.child.take().expect("a running server");
        child.kill().expect("a running server");
        child.wait().expect("its end");
    }

    /// Ends it as a service manager does. It must go by itself and without complaint.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("a running server");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("a running server");
        let deadline = Instant::now() + STOP;
        loop {
            if let Some(status) = child.try_wait().expect("its status") {
                assert!(status.success(), "the server on port {} ended with {status}", self.port);
                return;
            }
            if Instant::now() >= deadline {
                drop(child.kill());
                panic!("the server on port {} still runs {STOP:?} after SIGTERM", self.port);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A bucket, a database, and servers that share them. Servers go first when it is dropped.
pub struct Cluster {
    /// The servers.
    pub replicas: Vec<Replica>,
    /// The object store.
    pub s3: S3Server,
    /// The database server.
    pub postgres: Postgres,
    store: String,
    index: Option<String>,
    folder: TempDir,
}

impl Cluster {
    /// This many servers.
    pub fn start(servers: usize) -> Self {
        let mut cluster = Self::without_servers();
        (0..servers).for_each(|_| cluster.add(&[]));
        cluster
    }

    /// The bucket and the database.
    pub fn without_servers() -> Self {
        let (s3, postgres) = (S3Server::start(), Postgres::start());
        let (store, index) = (s3.bucket(BUCKET), Some(postgres.database("granary")));
        let folder = places::scratch();
        new_key(&folder.path().join("server-key"));
        Self { replicas: Vec::new(), s3, postgres, store, index, folder }
    }

    /// From now on new servers reach the bucket by another way: the proxy at this endpoint.
    pub fn go_through(&mut self, endpoint: &str) {
        self.store = self.s3.bucket_at(BUCKET, endpoint);
    }

    /// From now on new servers have this index; `None` is one in their data directories.
    pub fn use_index(&mut self, index: Option<&str>) {
        self.index = index.map(str::to_owned);
    }

    /// `postgres://…`, where new servers have one.
    pub fn index(&self) -> &str {
        self.index.as_deref().expect("the index is a database")
    }

    /// A data directory that knows the key, the bucket and the index.
    pub fn place(&self, name: &str) -> PathBuf {
        let data = self.folder.path().join(name);
        fs::create_dir_all(&data).expect("a folder");
        fs::copy(self.folder.path().join("server-key"), data.join("server-key")).expect("a copy");
        let objects = self.objects();
        Backing::set(&data, Some((&self.store, &objects)), self.index.as_deref());
        data
    }

    /// The folder whose files are the bucket's objects.
    pub fn objects(&self) -> PathBuf {
        self.s3.dir().join(BUCKET)
    }

    /// One server more.
    pub fn add(&mut self, arguments: &[&str]) {
        let data = self.place(&format!("replica-{}", self.replicas.len()));
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut replica = Replica { data, arguments, port: ports::free(), child: None };
        replica.start();
        self.replicas.push(replica);
    }

    /// Stops all servers that run.
    pub fn stop(&mut self) {
        let running = self.replicas.iter_mut().filter(|replica| replica.child.is_some());
        running.for_each(Replica::stop);
    }

    /// Reads everything that lies in the store, from a data directory that knows nothing yet. All of
    /// it must be right.
    pub fn assert_sound(&self) {
        assert_sound(&self.place("checker"));
    }
}

/// `granary fsck --read-data` must find nothing wrong.
pub fn assert_sound(data: &Path) {
    let output = backing::granary(data, &["fsck", "--read-data"]).output().expect("granary runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "fsck: {}\n{}", output.status, String::from_utf8_lossy(&said));
}

/// A new server key: 32 random bytes in hex.
fn new_key(path: &Path) {
    let mut bytes = [0; 32];
    let mut source = fs::File::open("/dev/urandom").expect("randomness");
    source.read_exact(&mut bytes).expect("randomness");
    fs::write(path, data_encoding::HEXLOWER.encode(&bytes)).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
}
