//! `granary mount` as a child process, and what is done with a mount. Needs root, `/dev/fuse`,
//! fusermount3 and unshare.

use std::fmt::Debug;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::background::{Background, eventually};
use crate::backing::Backing;
use crate::closure::Closure;
use crate::places;

/// What a machine that mounts has: a home, a cache folder, a mountpoint.
#[derive(Debug)]
pub struct Mounter {
    dir: TempDir,
}

/// A mount in the foreground. Taken away when dropped.
#[derive(Debug)]
pub struct Mount {
    place: PathBuf,
    process: Option<Background>,
}

/// What a mount says of itself when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Chunks that it fetched.
    pub chunks: u64,
    /// Their length as they travelled, in bytes.
    pub bytes: u64,
    /// Questions for chunks.
    pub questions: u64,
}

impl Default for Mounter {
    fn default() -> Self {
        Self::new()
    }
}

impl Mounter {
    /// A machine that has mounted nothing yet.
    pub fn new() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "no /dev/fuse: load the module fuse");
        let mounter = Self { dir: places::scratch() };
        for below in ["home", "cache", "mnt"] {
            fs::create_dir(mounter.path(below)).expect("a folder");
        }
        mounter
    }

    /// Something of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where it mounts unless told otherwise.
    pub fn place(&self) -> PathBuf {
        self.path("mnt")
    }

    /// `granary` with these arguments, as this machine would run it.
    pub fn granary(&self, arguments: &[&str]) -> Command {
        self.program(&places::granary(), arguments)
    }

    /// Another name of it.
    pub fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("GRANARY_LAZY_CACHE", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Mounts a cache and waits until it is there.
    pub fn mount(&self, cache: &str, arguments: &[&str]) -> Mount {
        self.mount_at(&self.place(), cache, arguments)
    }

    /// The same at another place.
    pub fn mount_at(&self, place: &Path, cache: &str, arguments: &[&str]) -> Mount {
        let at = place.to_str().expect("UTF-8");
        let mut command =
            self.granary(&[&["mount", cache, at, "--foreground"], arguments].concat());
        Mount::start(&mut command, place)
    }

    /// Mounts a cache of a data directory that no server uses.
    pub fn mount_data(&self, data: &Path, cache: &str) -> Mount {
        let place = self.place();
        let [at, from] = [&place, data].map(|path| path.to_str().expect("UTF-8"));
        let mut command = self.granary(&["mount", cache, at, "--foreground", "--data", from]);
        Mount::start(Backing::of(data).tell(&mut command), &place)
    }

    /// What a mount complains of that does not come about.
    pub fn mount_refused(&self, cache: &str, arguments: &[&str]) -> String {
        let place = self.place();
        let at = place.to_str().expect("UTF-8");
        let all = [&["mount", cache, at, "--foreground"], arguments].concat();
        let output = self.granary(&all).output().expect("granary runs");
        assert!(!output.status.success(), "{all:?} worked");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The files of segments in the cache folder.
    pub fn segments(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.path("cache/segments")).expect("a cache");
        folder.map(|entry| entry.expect("an entry").path()).collect()
    }
}

impl Drop for Mounter {
    fn drop(&mut self) {
        // Otherwise the folder could not be removed. Gone already, most of the time.
        if is_mounted(&self.place()) {
            take_away(&self.place());
        }
    }
}

impl Mount {
    /// Runs a command that mounts in the foreground, and waits until the mount is there.
    pub fn start(command: &mut Command, place: &Path) -> Self {
        let process = Background::start(command.env("GRANARY_LOG", "info"));
        let mount = Self { place: place.to_owned(), process: Some(process) };
        eventually("it mounts", || {
            let said = mount.count("Error") + mount.count("error:");
            assert!(said == 0 || is_mounted(place), "the mount failed");
            is_mounted(place) && mount.count(" is at ") > 0
        });
        mount
    }

    /// Where a store path is.
    pub fn real(&self, path: &str) -> PathBuf {
        self.place.join(path.strip_prefix("/nix/store/").expect("a store path"))
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// How many lines of its log hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.process.as_ref().map_or(0, |process| process.count(text))
    }

    /// What it has logged.
    pub fn lines(&self) -> Vec<String> {
        self.process.as_ref().map(Background::lines).unwrap_or_default()
    }

    /// Ends it as a service manager does. It must go without complaint, and the mount with it.
    pub fn stop(mut self) -> Statistics {
        let lines = self.process.take().expect("it runs").stop();
        assert!(!is_mounted(&self.place), "it is still mounted");
        Statistics::read(&lines)
    }

    /// Waits until somebody else has ended it.
    pub fn ended(mut self) -> Statistics {
        let (status, lines) = self.process.take().expect("it runs").end();
        assert!(status.success(), "{status}");
        Statistics::read(&lines)
    }

    /// `kill -9`. The mountpoint is left behind.
    pub fn kill_nine(mut self) {
        let process = self.process.take().expect("it runs");
        process.signal(Signal::KILL);
        drop(process.end());
        // Whoever cleans up is the test.
        self.place = PathBuf::new();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.place) {
            take_away(&self.place);
        }
    }
}

impl Statistics {
    /// What the last lines of a log say.
    pub fn read<S: AsRef<str> + Debug>(lines: &[S]) -> Self {
        let line = lines.iter().map(AsRef::as_ref).rfind(|line| line.contains("unmounting"));
        let line = line.unwrap_or_else(|| panic!("it told nothing of itself: {lines:#?}"));
        let number = |name: &str| {
            let mut words = line.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
        };
        Self { chunks: number("chunks"), bytes: number("bytes"), questions: number("questions") }
    }
}

fn take_away(place: &Path) {
    // It may be gone meanwhile.
    drop(Command::new("umount").arg("-l").arg(place).status());
}

/// Whether something is mounted there.
pub fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(4) == place.to_str())
}

/// A program in a closure, run with `store` at /nix/store. What it writes.
pub fn run_in(store: &Path, program: &[&str]) -> String {
    let script = "mkdir -p /nix/store && mount --bind \"$0\" /nix/store && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .arg(store)
        .args(program)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails unless what lies at `ours` is what lies at `theirs`: names, kinds, contents, and the
/// metadata that Nix gives everything in a store. How many files there were.
pub fn assert_same(theirs: &Path, ours: &Path) -> usize {
    let (wanted, found) = (meta(theirs), meta(ours));
    let at = ours.display();
    assert_eq!(wanted.file_type(), found.file_type(), "{at}");
    assert_eq!(found.mtime(), 1, "{at}");
    assert_eq!((found.uid(), found.gid()), (0, 0), "{at}");
    if wanted.is_symlink() {
        assert_eq!(
            fs::read_link(theirs).expect("a link"),
            fs::read_link(ours).expect("one"),
            "{at}"
        );
        return 0;
    }
    assert_eq!(wanted.mode(), found.mode(), "{at}");
    if wanted.is_file() {
        assert_eq!(wanted.len(), found.len(), "{at}");
        let same = fs::read(theirs).expect("a file") == fs::read(ours).expect("a file, too");
        assert!(same, "{at} has other contents");
        return 1;
    }
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).expect("a folder");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort_unstable();
        names
    };
    let wanted = names(theirs);
    assert_eq!(wanted, names(ours), "{at}");
    wanted.iter().map(|name| assert_same(&theirs.join(name), &ours.join(name))).sum()
}

fn meta(path: &Path) -> fs::Metadata {
    path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// [`assert_same`] for all paths of a closure.
pub fn assert_same_closure(closure: &Closure, mount: &Mount) -> usize {
    let files = closure.paths.iter().map(|path| {
        let name = path.path.strip_prefix('/').expect("absolute");
        assert_same(&closure.root.join(name), &mount.real(&path.path))
    });
    files.sum()
}

/// Every file of a closure, where its store has it and where the mount has it.
pub fn files(closure: &Closure, mount: &Mount) -> Vec<(PathBuf, PathBuf)> {
    let mut files = Vec::new();
    let mut open: Vec<(PathBuf, PathBuf)> = closure
        .paths
        .iter()
        .map(|path| (closure.root.join(&path.path[1..]), mount.real(&path.path)))
        .collect();
    while let Some((theirs, ours)) = open.pop() {
        let kind = meta(&theirs);
        if kind.is_dir() {
            for entry in fs::read_dir(&theirs).expect("a folder") {
                let name = entry.expect("an entry").file_name();
                open.push((theirs.join(&name), ours.join(&name)));
            }
        } else if kind.is_file() {
            files.push((theirs, ours));
        }
    }
    files.sort();
    files
}

/// A proxy that flips a bit in the next answers to questions for chunks. It goes on until the
/// test's process ends.
#[derive(Debug)]
pub struct Flipper {
    port: u16,
    left: Arc<AtomicU32>,
}

impl Flipper {
    /// A proxy before the server at `origin`.
    pub fn start(origin: &str) -> Self {
        let server = origin.strip_prefix("http://").expect("plain HTTP").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let left = Arc::new(AtomicU32::new(0));
        let shared = left.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, left) = (server.clone(), shared.clone());
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || drop(pass_on(&client, &server, &left)));
            }
        });
        Self { port, left }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Damages the next so many answers.
    pub fn damage(&self, answers: u32) {
        self.left.store(answers, Ordering::SeqCst);
    }

    /// How many are still to be damaged.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }
}

/// One request for each connection.
fn pass_on(mut client: &TcpStream, server: &str, left: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(text) = lower.strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut server = TcpStream::connect(server)?;
    server.write_all(head.as_bytes())?;
    server.write_all(b"connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let is_chunks = head.lines().next().is_some_and(|line| line.contains("/chunks/read"));
    let begins = answer.windows(4).position(|four| four == b"\r\n\r\n");
    if is_chunks
        && let Some(begins) = begins
        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    {
        // In every record, as small as they may be.
        answer.iter_mut().skip(begins + 4 + 70).step_by(90).for_each(|byte| *byte ^= 0x10);
    }
    client.write_all(&answer)
}
