//! Nix's database: read as Nix writes it, meanwhile, without rights, and of other ages.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix_compat::database::{Database, Error};
use nix_compat::store_path::{StoreDir, StorePath};
use rusqlite::Connection;
use tempfile::TempDir;

const TABLES: &str = "
    create table ValidPaths (
        id integer primary key autoincrement not null, path text unique not null,
        hash text not null, registrationTime integer not null, deriver text, narSize integer,
        ultimate integer, sigs text, ca text);
    create table Refs (referrer integer not null, reference integer not null);
    create table DerivationOutputs (drv integer not null, id text not null, path text not null);";
const HEX: &str = "eaa287c4ec819f5594f60af9cc26ca3c0fdd2649527f515288e62e34901c1c47";
const A: &str = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a";
const B: &str = "6s0pvdmzlpnqh5972il76vl09lknd67c-b";
const DRV: &str = "iijwndc2in61rvlxcbvk2grx381va0n4-a.drv";

struct Place {
    dir: TempDir,
    writer: Connection,
}

impl Place {
    fn new(tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A name that needs encoding in a URI.
        let writer = Connection::open(dir.path().join("d?b #1%41")).unwrap();
        writer.execute_batch("pragma journal_mode = wal").unwrap();
        writer.execute_batch(tables).unwrap();
        Place { dir, writer }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("d?b #1%41")
    }

    fn add(&self, name: &str) {
        let hash = format!("sha256:{HEX}");
        self.writer
            .execute(
                "insert into ValidPaths (path, hash, registrationTime, narSize) \
                 values (?, ?, 1700000000, 112)",
                [format!("/nix/store/{name}"), hash],
            )
            .unwrap();
    }

    fn sql(&self, sql: &str) {
        self.writer.execute_batch(sql).unwrap();
    }

    fn open(&self) -> Result<Database, Error> {
        Database::open(&self.path(), StoreDir::default())
    }
}

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

fn is_valid(database: &mut Database, name: &str) -> bool {
    database.path_infos(&[path(name)]).unwrap().remove(0).is_some()
}

#[test]
fn every_column_is_read() {
    let place = Place::new(TABLES);
    place.add(A);
    place.add(B);
    place.add(DRV);
    let signature = format!("k-1:{}==", "A".repeat(86));
    let ca = "fixed:r:sha256:1229b06m4r3dq4hc8n4vwzj8a941pjm6pns0hnwbg9r683sk551r";
    place.sql(&format!(
        "update ValidPaths set deriver = '/nix/store/{DRV}', ultimate = 1, \
             sigs = '{signature} odd', ca = '{ca}' where id = 1; \
         insert into Refs values (1, 2), (1, 1); \
         insert into DerivationOutputs values (3, 'out', '/nix/store/{A}');"
    ));
    let mut database = place.open().unwrap();
    let missing = path("00000000000000000000000000000000-missing");
    let infos = database.path_infos(&[path(A), missing.clone(), path(B)]).unwrap();
    let a = infos[0].as_ref().unwrap();
    assert_eq!(a.store_path, path(A));
    assert_eq!(a.nar_hash, format!("sha256:{HEX}").parse().unwrap());
    assert_eq!((a.nar_size, a.registration_time, a.ultimate), (112, 1_700_000_000, true));
    assert_eq!(a.references, [path(A), path(B)]);
    assert_eq!(a.deriver, Some(path(DRV)));
    assert_eq!(a.signatures, [signature.parse().unwrap()]);
    assert_eq!(a.odd_signatures, ["odd"]);
    assert_eq!(a.ca, Some(ca.parse().unwrap()));
    assert_eq!(infos[1], None);
    let b = infos[2].as_ref().unwrap();
    assert!(!b.ultimate && b.references.is_empty() && b.deriver.is_none() && b.ca.is_none());

    assert_eq!(database.valid_derivers(&[path(A), path(B)]).unwrap(), [vec![path(DRV)], vec![]]);
    assert_eq!(database.derivation_outputs(&[path(DRV)]).unwrap(), [vec![path(A)]]);
    place.sql(
        "insert into ValidPaths (path, hash, registrationTime) values ('/nix/store/x', '', 0)",
    );
    let all = database.all_paths().unwrap();
    assert_eq!(all.iter().filter(|path| path.is_ok()).count(), 3);
    assert_eq!(all.len(), 4);
}

#[test]
fn what_another_process_writes_is_seen() {
    let place = Place::new(TABLES);
    place.add(A);
    let mut database = place.open().unwrap();
    assert!(is_valid(&mut database, A));
    assert!(!is_valid(&mut database, B));
    place.add(B);
    assert!(is_valid(&mut database, B));
    // A transaction in flight is nobody's business yet, and keeps nobody waiting.
    place.sql("begin immediate");
    place.add(DRV);
    assert!(!is_valid(&mut database, DRV));
    place.sql("commit");
    assert!(is_valid(&mut database, DRV));
    place.sql("pragma wal_checkpoint(truncate)");
    assert!(is_valid(&mut database, DRV));
}

#[test]
fn columns_of_nix_2_may_be_missing_and_others_not() {
    let old = TABLES.replace("ultimate integer, sigs text, ca text", "x");
    let place = Place::new(&old);
    place.add(A);
    assert!(is_valid(&mut place.open().unwrap(), A));

    let place = Place::new(&TABLES.replace("narSize integer,", ""));
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::Schema { missing: "narSize", .. }), "{error}");
    let place = Place::new("create table Other (x)");
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::Schema { missing: "table ValidPaths", .. }), "{error}");
    let error = Database::open(Path::new("/nowhere/db.sqlite"), StoreDir::default()).unwrap_err();
    assert_eq!(error.to_string(), "there is no Nix database at /nowhere/db.sqlite");
    std::fs::write(place.dir.path().join("text"), "no database, but longer than a header").unwrap();
    let error = Database::open(&place.dir.path().join("text"), StoreDir::default()).unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error}");
}

/// Runs this on a thread that may not write to anybody's files: root may write to all.
fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let run = || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        run()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Another process that writes, as SQLite's locks know processes and not connections.
struct Writer(Child);

impl Writer {
    fn start(path: &Path) -> Self {
        const SCRIPT: &str = "import sqlite3, sys\n\
            db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            for line in sys.stdin:\n    db.execute(line).fetchall(); print('done', flush=True)\n\
            db.close()";
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        Writer(command.spawn().expect("python3 runs: run tests/setup"))
    }

    fn sql(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql}").unwrap();
        let mut done = [0; 5];
        self.0.stdout.as_mut().unwrap().read_exact(&mut done).unwrap();
        assert_eq!(&done, b"done\n");
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn no_right_to_write_is_needed() {
    let place = Place::new(TABLES);
    place.add(A);
    let file = place.path();
    let Place { dir, writer } = place;
    drop(writer);
    let open = || Database::open(&file, StoreDir::default()).unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    let log = dir.path().join("d?b #1%41-wal");
    assert!(!log.exists(), "the last to close takes the log away");

    let insert = |name: &str| {
        format!(
            "insert into ValidPaths (path, hash, registrationTime) \
             values ('/nix/store/{name}', 'sha256:{HEX}', 0)"
        )
    };
    let mut database = as_nobody(|| {
        let mut database = open();
        assert!(is_valid(&mut database, A));
        assert!(!is_valid(&mut database, B));
        database
    });
    // A daemon comes up and writes, goes away, and comes again.
    let mut writer = Writer::start(&file);
    writer.sql(&insert(B));
    let mut database = as_nobody(|| {
        assert!(is_valid(&mut database, B), "written to the log only");
        assert!(is_valid(&mut open(), B));
        database
    });
    writer.stop();
    as_nobody(|| assert!(is_valid(&mut open(), B)));
    let mut writer = Writer::start(&file);
    writer.sql(&insert(DRV));
    writer.stop();
    as_nobody(|| {
        assert!(is_valid(&mut database, DRV));
        assert!(is_valid(&mut database, A));
    });
}

#[test]
fn a_write_that_was_broken_off_is_not_read() {
    let place = Place::new(TABLES);
    place.add(A);
    let file = place.path();
    let Place { dir, writer } = place;
    // A rollback journal that is still to be played back says that the database is half written.
    writer.execute_batch("pragma journal_mode = delete; begin").unwrap();
    writer.execute_batch("pragma cache_size = 1; pragma cache_spill = 1").unwrap();
    for n in 0..500 {
        let sql =
            format!("insert into ValidPaths (path, hash, registrationTime) values ('{n}', '', 0)");
        writer.execute_batch(&sql).unwrap();
    }
    let copy = dir.path().join("copy");
    std::fs::copy(&file, &copy).unwrap();
    std::fs::copy(dir.path().join("d?b #1%41-journal"), dir.path().join("copy-journal")).unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
    as_nobody(|| {
        let error = Database::open(&copy, StoreDir::default()).unwrap_err();
        assert!(matches!(error, Error::Sqlite { .. }), "{error}");
    });
}
