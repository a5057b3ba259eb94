//! What lies behind a data directory: its bytes in a folder of a bucket or in itself, its index in
//! a database or in itself.
//!
//! Each data directory has a place of its own, remembered by its path, so that whoever starts a
//! server there for the second time finds what the first has left. The S3 server and PostgreSQL
//! start when a test first needs them; there is one of each in a process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use granary_test_services::{KEY, Postgres, S3Server, SECRET};

use crate::combination::{Combination, Index, Store};
use crate::keeper::Keeper;
use crate::places;

/// The bucket that all data directories of a process share.
const BUCKET: &str = "granary-e2e";

/// What lies behind one data directory.
#[derive(Debug, Clone)]
pub struct Backing {
    combination: Combination,
    /// The folder of its objects, as the S3 server has it on disk.
    objects: Option<PathBuf>,
    store: Option<String>,
    index: Option<String>,
}

static KNOWN: Mutex<BTreeMap<PathBuf, Backing>> = Mutex::new(BTreeMap::new());

impl Backing {
    /// That of a data directory. A new one has what the environment of the tests chooses.
    pub fn of(data: &Path) -> Self {
        Self::on(data, Combination::chosen())
    }

    /// That of a data directory. A new one has this combination.
    pub fn on(data: &Path, combination: Combination) -> Self {
        let mut known = KNOWN.lock().expect("no panic");
        let number = known.len() + 1;
        let key = std::path::absolute(data).expect("a path");
        known.entry(key).or_insert_with(|| Self::new(number, combination)).clone()
    }

    /// Puts a data directory on a store and an index of the test's own: the store by its URL and
    /// the folder whose files are its objects, the index by its URL.
    pub fn set(data: &Path, store: Option<(&str, &Path)>, index: Option<&str>) {
        let backing = Self {
            combination: Combination {
                store: store.map_or(Store::Disk, |_| Store::S3),
                index: index.map_or(Index::Sled, |_| Index::Postgres),
            },
            objects: store.map(|(_, objects)| objects.to_owned()),
            store: store.map(|(url, _)| url.to_owned()),
            index: index.map(str::to_owned),
        };
        let key = std::path::absolute(data).expect("a path");
        KNOWN.lock().expect("no panic").insert(key, backing);
    }

    fn new(number: usize, combination: Combination) -> Self {
        let (mut objects, mut store, mut index) = (None, None, None);
        if combination.store == Store::S3 {
            let (dir, url) = bucket();
            let folder = format!("data-{number}");
            objects = Some(dir.join(&folder));
            store = Some(below(&url, &folder));
        }
        if combination.index == Index::Postgres {
            index = Some(database(&format!("data_{number}")));
        }
        Self { combination, objects, store, index }
    }

    /// Which kinds they are.
    pub fn combination(&self) -> Combination {
        self.combination
    }

    /// `s3://…`, unless the store is the data directory.
    pub fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// `postgres://…`, unless the index is in the data directory.
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// The folder whose files are this place's objects, if they are objects.
    pub fn objects(&self) -> Option<&Path> {
        self.objects.as_deref()
    }

    /// Tells a program where things are: any that takes `--data`.
    pub fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env_remove("GRANARY_STORE").env_remove("GRANARY_INDEX");
        if let Some(index) = &self.index {
            command.env("GRANARY_INDEX", index);
        }
        if let Some(store) = &self.store {
            with_credentials(command).env("GRANARY_STORE", store);
        }
        command
    }
}

/// Gives a program the S3 servers' credentials, and keeps this machine's own from it.
pub fn with_credentials(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env_remove("AWS_PROFILE")
}

/// `s3://BUCKET?…` with a folder of the bucket.
pub fn below(url: &str, folder: &str) -> String {
    match url.split_once('?') {
        Some((bucket, parameters)) => format!("{bucket}/{folder}?{parameters}"),
        None => format!("{url}/{folder}"),
    }
}

/// `granary COMMAND --data DATA`, told where things are.
pub fn granary(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(places::granary());
    command.args(arguments).arg("--data").arg(data).stdin(Stdio::null());
    Backing::of(data).tell(&mut command);
    command
}

/// Takes the index of a stopped server away, and has it made anew from what the store holds. The next
/// start does that where the index is in the data directory. Elsewhere a server refuses to start on a
/// database that is not the store's until `granary fsck --rebuild` was run.
pub fn lose_index(data: &Path) {
    let backing = Backing::of(data);
    match backing.index() {
        Some(url) => empty_database(url),
        None => {
            let index = data.join("index");
            assert!(index.is_dir(), "the index is kept elsewhere: nothing would be lost here");
            fs::remove_dir_all(index).expect("the index goes");
        }
    }
    if backing.combination().rebuilds_by_itself() {
        return;
    }
    let refused = output(&mut granary(data, &["serve", "--listen", "127.0.0.1:0"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "it serves a store whose index is lost: {said}");
    assert!(said.contains("fsck --rebuild"), "it does not say what to do: {said}");
    rebuild_index(data);
}

/// `granary fsck --rebuild`, which has to find everything in order. What it says.
pub fn rebuild_index(data: &Path) -> String {
    let output = output(&mut granary(data, &["fsck", "--rebuild"]));
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "granary fsck --rebuild: {}: {said}", output.status);
    eprint!("{said}");
    said
}

/// Puts a copy of all that a stopped server has behind another data directory.
pub fn copy(from: &Path, to: &Path) {
    let (from_backing, to_backing) =
        (Backing::of(from), Backing::on(to, Backing::of(from).combination()));
    copy_folder(from, to);
    if let (Some(from), Some(to)) = (from_backing.objects(), to_backing.objects()) {
        fs::create_dir_all(to).expect("a folder");
        copy_folder(from, to);
    }
    if let (Some(from), Some(to)) = (from_backing.index(), to_backing.index()) {
        let (original, copy) = (database_name(from), database_name(to));
        sql(to, &format!("DROP DATABASE {copy} WITH (FORCE)"));
        sql(to, &format!("CREATE DATABASE {copy} TEMPLATE {original}"));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(status.expect("cp runs").success(), "cp -a {}", from.display());
}

/// Drops a database with all that is in it, and makes an empty one of its name.
pub fn empty_database(url: &str) {
    let name = database_name(url);
    sql(url, &format!("DROP DATABASE {name} WITH (FORCE)"));
    sql(url, &format!("CREATE DATABASE {name}"));
}

fn database_name(url: &str) -> &str {
    let name = url.split('?').next().and_then(|url| url.rsplit('/').next());
    name.unwrap_or_else(|| panic!("{url} names no database"))
}

/// Says something to the PostgreSQL of `url`, in the database `postgres`.
fn sql(url: &str, statement: &str) {
    let end = url.rfind(database_name(url)).expect("it is a part of it");
    let maintenance = format!("{}postgres", &url[..end]);
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &maintenance, "-c", statement]);
    let output = output(&mut command);
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The shared bucket: its folder on disk, and its URL.
fn bucket() -> (PathBuf, String) {
    static S3: OnceLock<(Mutex<S3Server>, PathBuf, String, Keeper)> = OnceLock::new();
    let (_, dir, url, _) = S3.get_or_init(|| {
        let server = S3Server::start();
        let (dir, url) = (server.dir().to_owned(), server.bucket(BUCKET));
        let keeper = Keeper::of(&dir);
        (Mutex::new(server), dir.join(BUCKET), url, keeper)
    });
    (dir.clone(), url.clone())
}

/// The URL of a new database.
fn database(name: &str) -> String {
    static POSTGRES: OnceLock<(Postgres, Keeper)> = OnceLock::new();
    let (postgres, _) = POSTGRES.get_or_init(|| {
        let postgres = Postgres::start();
        let data = PathBuf::from(postgres.sql("SHOW data_directory"));
        let keeper = Keeper::of(data.parent().expect("a folder of its own"));
        (postgres, keeper)
    });
    postgres.database(name)
}
