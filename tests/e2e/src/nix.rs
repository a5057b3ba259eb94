//! Nix clients, each with a home, a configuration and credentials of its own.

use crate::closure::{Closure, StorePath};
use crate::places;
use crate::server::Server;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The Nix versions that `tests/setup` provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 2.8, Debian 12's own.
    V2_8,
    /// 2.26, of trixie.
    V2_26,
    /// 2.34, of forky.
    V2_34,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V2_8, Self::V2_26, Self::V2_34];

    /// The folder of its programs.
    pub fn bin(self) -> PathBuf {
        match self {
            Self::V2_8 => PathBuf::from("/usr/bin"),
            Self::V2_26 => places::tools().join("nix-trixie/bin"),
            Self::V2_34 => places::tools().join("nix-forky/bin"),
        }
    }

    fn number(self) -> &'static str {
        match self {
            Self::V2_8 => "2.8.",
            Self::V2_26 => "2.26.",
            Self::V2_34 => "2.34.",
        }
    }
}

/// A client. Its home is new, so it knows nothing of earlier pushes and pulls.
#[derive(Debug)]
pub struct Nix {
    bin: PathBuf,
    home: TempDir,
}

impl Nix {
    /// A client that has the server's token, and trusts its key and no other.
    pub fn of(version: Version, server: &Server) -> Self {
        Self::with(version, server.token(), server.public_key())
    }

    /// A client with that password for 127.0.0.1 that trusts that key and no other.
    pub fn with(version: Version, token: &str, public_key: &str) -> Self {
        let nix = Self { bin: version.bin(), home: places::scratch() };
        let home = nix.home.path();
        let netrc = home.join("netrc");
        write(&netrc, &format!("machine 127.0.0.1 login any password {token}\n"));
        write(
            &home.join("nix.conf"),
            &format!(
                "experimental-features = nix-command\n\
                 substituters =\n\
                 trusted-public-keys = {public_key}\n\
                 require-sigs = true\n\
                 netrc-file = {}\n\
                 sandbox = false\n\
                 build-users-group =\n\
                 fsync-metadata = false\n",
                netrc.display()
            ),
        );
        let said = nix.run(None, "nix", &["--version"]);
        assert!(said.contains(version.number()), "{version:?} is {said}: see tests/setup");
        nix
    }

    /// `nix copy --to URL` of the closure.
    pub fn copy_to(&self, url: &str, closure: &Closure) {
        self.run(Some(&closure.root), "nix", &["copy", "--to", url, &closure.top]);
    }

    /// `nix copy --from URL` of a path with its closure, into a new store. Signatures required.
    pub fn copy_from(&self, url: &str, path: &str) -> ChrootStore {
        let store = ChrootStore::empty();
        self.run(Some(store.root()), "nix", &["copy", "--from", url, path]);
        store
    }

    /// `nix copy --to URL` of a path with its closure from the store in `root`.
    ///
    /// # Errors
    /// What it complained of.
    pub fn try_copy_to(&self, url: &str, root: &Path, path: &str) -> Result<(), String> {
        self.attempt(Some(root), "nix", &["copy", "--to", url, path]).map(drop)
    }

    /// `nix copy --from URL` of a path with its closure, into a new store.
    ///
    /// # Errors
    /// What it complained of.
    pub fn try_copy_from(&self, url: &str, path: &str) -> Result<ChrootStore, String> {
        let store = ChrootStore::empty();
        self.attempt(Some(store.root()), "nix", &["copy", "--from", url, path])?;
        Ok(store)
    }

    /// The same by substitution, as a build would get it.
    pub fn substitute(&self, url: &str, path: &str) -> ChrootStore {
        let store = ChrootStore::empty();
        let arguments = ["--realise", path, "--option", "substituters", url];
        self.run(Some(store.root()), "nix-store", &arguments);
        store
    }

    /// `nix copy` of a path with its closure from one cache to another.
    pub fn copy_between(&self, from: &str, to: &str, path: &str) {
        self.run(None, "nix", &["copy", "--from", from, "--to", to, path]);
    }

    /// `nix store verify` of a path with its closure in a cache: every NAR is read, and a signature
    /// by a trusted key is wanted on each.
    pub fn verify(&self, url: &str, path: &str) {
        self.run(None, "nix", &["store", "verify", "--store", url, "--recursive", path]);
    }

    /// `nix-store --add` of files; the store paths in their order.
    pub fn add(&self, store: &ChrootStore, files: &[PathBuf]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
        let arguments = [&["--add"], &files[..]].concat();
        let said = self.run(Some(store.root()), "nix-store", &arguments);
        said.lines().map(str::to_owned).collect()
    }

    /// `nix path-info --store URL` of a path.
    ///
    /// # Errors
    /// What it complained of.
    pub fn path_info(&self, url: &str, path: &str) -> Result<String, String> {
        self.attempt(None, "nix", &["path-info", "--store", url, path])
    }

    /// The NAR of what lies at `path`.
    pub fn nar(&self, path: &Path) -> Vec<u8> {
        let mut nar = Vec::new();
        self.dump(path, &mut nar);
        nar
    }

    /// `nix copy` of a closure into a store, unsigned.
    pub fn copy_into(&self, store: &ChrootStore, closure: &Closure) {
        let from = format!("local?root={}", closure.root.display());
        let arguments = ["copy", "--no-check-sigs", "--from", &from, &closure.top];
        self.run(Some(store.root()), "nix", &arguments);
    }

    /// What a store knows of a path, in the form of `nix-store --load-db`.
    pub fn dump_db(&self, store: &ChrootStore, path: &str) -> String {
        self.run(Some(store.root()), "nix-store", &["--dump-db", path])
    }

    /// Makes what a dump describes valid in the store in `root`, its files being there.
    pub fn load_db(&self, root: &Path, dump: &str) {
        let mut command = self.command(Some(root), "nix-store");
        let mut child = command.arg("--load-db").stdin(Stdio::piped()).spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(dump.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("its end").success(), "nix-store --load-db");
    }

    /// Fails unless `store` holds `closure`: all its paths and no others, registered, sound in
    /// Nix's own eyes, and each with the NAR that it had where it was built.
    pub fn assert_same(&self, store: &ChrootStore, closure: &Closure) {
        let registered = self.run(Some(store.root()), "nix-store", &["-qR", &closure.top]);
        let mut registered: Vec<_> = registered.lines().collect();
        registered.sort_unstable();
        let mut expected: Vec<_> = closure.paths.iter().map(|p| p.path.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(registered, expected, "the closure of {}", closure.top);

        self.run(Some(store.root()), "nix-store", &["--verify", "--check-contents"]);

        let half = closure.paths.len() / 2;
        let (first, second) = closure.paths.split_at(half);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| self.assert_dumps(store, second));
            self.assert_dumps(store, first);
            other.join().expect("every dump is identical");
        });
    }

    fn assert_dumps(&self, store: &ChrootStore, paths: &[StorePath]) {
        for path in paths {
            let (dumped, _) = self.nar_of(&store.real(&path.path));
            assert_eq!(dumped, path.nar_hash, "{} came back another", path.path);
        }
    }

    /// `nix-store --dump` of what lies at `path`, into a writer. Its length.
    fn dump(&self, path: &Path, to: &mut dyn std::io::Write) -> u64 {
        let mut child = self
            .command(None, "nix-store")
            .arg("--dump")
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("nix-store runs");
        let mut nar = child.stdout.take().expect("piped");
        let length = std::io::copy(&mut nar, to).expect("its output");
        assert!(child.wait().expect("its end").success(), "nix-store --dump {}", path.display());
        length
    }

    /// Hash in hex and length of the NAR of what lies at `path`.
    pub fn nar_of(&self, path: &Path) -> (String, u64) {
        let mut hash = Sha256::new();
        let length = self.dump(path, &mut HashWriter(&mut hash));
        (data_encoding::HEXLOWER.encode(&hash.finalize()), length)
    }

    /// How long the NARs of these paths of a closure are as zstd makes them, each by itself: what
    /// travels where nothing is known of what is there.
    pub fn zstd_nars(&self, root: &Path, paths: &[&StorePath]) -> u64 {
        let compress = |paths: &[&StorePath]| {
            let lengths = paths.iter().map(|path| {
                let mut encoder = zstd::stream::Encoder::new(Counter(0), 3).expect("zstd starts");
                self.dump(&root.join(path.path.trim_start_matches('/')), &mut encoder);
                encoder.finish().expect("zstd ends").0
            });
            lengths.sum::<u64>()
        };
        let (first, second) = paths.split_at(paths.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| compress(second));
            compress(first) + other.join().expect("every NAR is dumped")
        })
    }

    /// Makes paths valid in the store in `root`, their files being there.
    pub fn register(&self, root: &Path, paths: &[StorePath]) {
        let text = paths.iter().map(|path| {
            let StorePath { path, nar_hash, nar_size, references } = path;
            let count = references.len();
            let lines = references.iter().map(|reference| format!("{reference}\n"));
            let lines = lines.collect::<String>();
            format!("{path}\n{nar_hash}\n{nar_size}\n\n{count}\n{lines}")
        });
        self.load_db(root, &text.collect::<String>());
    }

    /// The NAR URLs this client remembers, by hash part: those of its own uploads, for a client
    /// that has only pushed.
    pub fn remembered_urls(&self) -> BTreeMap<String, RememberedNar> {
        const QUERY: &str = "import glob, json, sqlite3, sys\n\
            [name] = glob.glob(sys.argv[1] + '/.cache/nix/binary-cache-v*.sqlite')\n\
            query = 'select hashPart, url, compression from NARs where present = 1'\n\
            print(json.dumps(sqlite3.connect(name).execute(query).fetchall()))";
        let output = Command::new("/usr/bin/python3")
            .args(["-c", QUERY])
            .arg(self.home.path())
            .stderr(Stdio::inherit())
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "this Nix keeps its narinfo cache elsewhere");
        let rows: Vec<(String, String, String)> =
            serde_json::from_slice(&output.stdout).expect("rows");
        rows.into_iter()
            .map(|(hash, url, compression)| (hash, RememberedNar { url, compression }))
            .collect()
    }

    fn command(&self, root: Option<&Path>, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("NIX_CONF_DIR", self.home.path())
            .stdin(Stdio::null());
        if let Some(root) = root {
            command.env("NIX_REMOTE", format!("local?root={}", root.display()));
        }
        command
    }

    fn attempt(
        &self,
        root: Option<&Path>,
        program: &str,
        arguments: &[&str],
    ) -> Result<String, String> {
        let output = self.command(root, program).args(arguments).output().unwrap_or_else(|error| {
            panic!("{}: {error}: run tests/setup", self.bin.join(program).display())
        });
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }

    fn run(&self, root: Option<&Path>, program: &str, arguments: &[&str]) -> String {
        let output = self.command(root, program).args(arguments).output().unwrap_or_else(|error| {
            panic!("{}: {error}: run tests/setup", self.bin.join(program).display())
        });
        assert!(
            output.status.success(),
            "{}/{program} {}: {}\n{}",
            self.bin.display(),
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A NAR as a client's own narinfo cache has it.
#[derive(Debug, Clone)]
pub struct RememberedNar {
    /// Relative to the cache.
    pub url: String,
    /// By name.
    pub compression: String,
}

struct Counter(u64);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An empty store in a directory of its own, gone when dropped.
#[derive(Debug)]
pub struct ChrootStore(TempDir);

impl ChrootStore {
    /// A new one.
    pub fn empty() -> Self {
        Self(places::scratch())
    }

    /// The directory that holds `nix/store`.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where a store path really is.
    pub fn real(&self, store_path: &str) -> PathBuf {
        self.root().join(store_path.trim_start_matches('/'))
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
