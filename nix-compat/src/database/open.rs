//! Opening the database, and knowing whether it changed.

use std::fmt::Write;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Error;

/// How long to wait for a writer that holds the database. Nix holds it for
/// milliseconds; with a rollback journal instead of a WAL, maybe longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// An open database.
pub(super) struct Opened {
    pub connection: Connection,
    pub fixed: Option<Stamp>,
}

/// What a write to the database changes about its files: itself, its write-ahead
/// log, and the rollback journal that stores on some file systems have instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp([Option<[i64; 5]>; 3]);

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let stamp = |suffix: &str| {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match Path::new(&file).metadata() {
                Ok(metadata) => Ok(Some(numbers(&metadata))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io { path: file.into(), source }),
            }
        };
        Ok(Stamp([stamp("")?, stamp("-wal")?, stamp("-journal")?]))
    }

    fn is_missing(&self) -> bool {
        let Stamp([database, ..]) = self;
        database.is_none()
    }

    /// Whether everything committed is in the database itself, and nothing else.
    fn is_whole(&self) -> bool {
        let Stamp([_, log, journal]) = self;
        [log, journal].into_iter().flatten().all(|[_, size, ..]| *size == 0)
    }
}

fn numbers(metadata: &Metadata) -> [i64; 5] {
    let [inode, size] = [metadata.ino(), metadata.size()].map(u64::cast_signed);
    [inode, size, metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec()]
}

/// Opens the database along with its log, else as a file that does not change.
pub(super) fn open(path: &Path) -> Result<Opened, Error> {
    let stamp = Stamp::of(path)?;
    if stamp.is_missing() {
        return Err(Error::Missing(path.to_owned()));
    }
    let failed = |source| Error::Sqlite { path: path.to_owned(), source };
    match connect(path, "") {
        Ok(connection) => Ok(Opened { connection, fixed: None }),
        Err(e) if is_about_rights(&e) && stamp.is_whole() => {
            let connection = connect(path, "&immutable=1").map_err(failed)?;
            Ok(Opened { connection, fixed: Some(stamp) })
        }
        Err(e) => Err(failed(e)),
    }
}

/// Whether SQLite wanted to make the log's files, or lock the database, and may
/// not.
fn is_about_rights(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SystemIoFailure
        )
    )
}

/// A connection that has been read from once: only then does SQLite look for
/// the log.
fn connect(path: &Path, parameters: &str) -> Result<Connection, rusqlite::Error> {
    let uri = format!("file:{}?mode=ro{parameters}", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.query_row("select count(*) from sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

/// The path as a URI has it.
fn encode(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                out.push(char::from(*byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02x}")),
        }
    }
    out
}

/// Checks that the tables are Nix's. The columns since Nix 2.0, in the order of
/// a query, each `null` where it is missing.
pub(super) fn new_columns(path: &Path, connection: &Connection) -> Result<String, Error> {
    let columns = |table: &str| -> Result<Vec<String>, Error> {
        connection
            .prepare("select name from pragma_table_info(?)")
            .and_then(|mut query| query.query_map([table], |row| row.get(0))?.collect())
            .map_err(|source| Error::Sqlite { path: path.to_owned(), source })
    };
    let found = columns("ValidPaths")?;
    let missing = |missing| Error::Schema { path: path.to_owned(), missing };
    for needed in ["id", "path", "hash", "registrationTime", "deriver", "narSize"] {
        if !found.iter().any(|column| column == needed) {
            return Err(missing(if found.is_empty() { "table ValidPaths" } else { needed }));
        }
    }
    for table in ["Refs", "DerivationOutputs"] {
        if columns(table)?.is_empty() {
            return Err(missing(table));
        }
    }
    let column = |name| if found.iter().any(|c| c == name) { name } else { "null" };
    Ok(["ultimate", "sigs", "ca"].map(column).join(", "))
}
