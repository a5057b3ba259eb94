//! Nix's own database, read only: what is valid in a store, without a daemon.
//!
//! `/nix/var/nix/db/db.sqlite` has a row of `ValidPaths` for each valid path:
//! `path` in full, `hash` of its NAR as `sha256:<hex>`, `narSize`, `deriver`,
//! `registrationTime`, and since Nix 2.0 `ultimate`, `sigs` (joined by spaces)
//! and `ca`. `Refs` has a row for each reference, `DerivationOutputs` one for
//! each output of a valid derivation.
//!
//! Nix writes with a write-ahead log (WAL), and may do so meanwhile. Reading
//! along takes the log's two files beside the database, which only those can
//! make who may write to the directory, and which are gone while nobody has the
//! database open. In that case everything is in the database itself, which is
//! then read as a file that does not change, and is read again if it did.
//!
//! Source: what Nix 2.8.0, 2.26.3 and 2.34.8 write; sqlite.org/wal.html,
//! "Read-Only Databases".

mod open;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row};

use crate::path_info::{self, PathInfo, Texts};
use crate::store_path::{self, StoreDir, StorePath};
use open::Stamp;

/// How often something is read again because the database changed meanwhile.
const ATTEMPTS: usize = 8;

/// Why the database gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("there is no Nix database at {0}")]
    Missing(PathBuf),
    /// It cannot be looked at.
    #[error("cannot read Nix's database {path}: {source}")]
    Io {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("cannot read Nix's database {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another kind of database, or one that only Nix 1 reads.
    #[error("{path} is no database of Nix 2: it has no {missing}")]
    Schema {
        /// The database.
        path: PathBuf,
        /// The table or column that is not there.
        missing: &'static str,
    },
    /// It is written to all the time, by who may write beside it.
    #[error(
        "Nix's database {0} changes while it is read, and its write-ahead log cannot be read; \
         use the Nix daemon, or run this as the owner of the store"
    )]
    Changing(PathBuf),
    /// What it says about a path.
    #[error(transparent)]
    PathInfo(#[from] path_info::Error),
    /// A path in it.
    #[error("Nix's database names a path: {0}")]
    StorePath(#[from] store_path::Error),
}

/// A store's database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    store_dir: StoreDir,
    connection: Connection,
    /// Set where the database is read as a file that does not change: how it
    /// looked when it was opened.
    fixed: Option<Stamp>,
    /// The columns that Nix 1 did not have, or `null` in place of each.
    new_columns: String,
}

impl Database {
    /// Opens the database of the store at `store_dir`.
    pub fn open(path: &Path, store_dir: StoreDir) -> Result<Self, Error> {
        let opened = open::open(path)?;
        let new_columns = open::new_columns(path, &opened.connection)?;
        Ok(Database {
            path: path.to_owned(),
            store_dir,
            connection: opened.connection,
            fixed: opened.fixed,
            new_columns,
        })
    }

    /// What the store knows about each path, nothing where it is not valid. All
    /// answers are of the same moment.
    pub fn path_infos(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, Error> {
        let query = format!(
            "select id, hash, narSize, deriver, registrationTime, {} from ValidPaths where path = ?",
            self.new_columns
        );
        self.read(|db| {
            let mut rows = db.connection.prepare_cached(&query)?;
            let mut references = db.connection.prepare_cached(
                "select path from Refs join ValidPaths on id = reference where referrer = ?",
            )?;
            let mut infos = Vec::with_capacity(paths.len());
            for path in paths {
                let absolute = path.to_absolute(&db.store_dir);
                let Some((id, mut texts)) = rows.query_row([absolute], texts).optional()? else {
                    infos.push(None);
                    continue;
                };
                texts.references =
                    references.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
                infos.push(Some(texts));
            }
            Ok(infos)
        })?
        .into_iter()
        .zip(paths)
        .map(|(texts, path)| Ok(texts.map(|t| t.check(path, &self.store_dir)).transpose()?))
        .collect()
    }

    /// All valid paths. One whose name is no store path's in every Nix comes as
    /// the reason why not.
    pub fn all_paths(&mut self) -> Result<Vec<Result<StorePath, store_path::Error>>, Error> {
        let paths = self.read(|db| {
            let mut query = db.connection.prepare_cached("select path from ValidPaths")?;
            query.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        })?;
        Ok(paths.iter().map(|path| StorePath::from_absolute(path, &self.store_dir)).collect())
    }

    /// For each path the valid derivations that have it as an output.
    pub fn valid_derivers(&mut self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, Error> {
        self.paths_for_each(
            paths,
            "select v.path from DerivationOutputs o join ValidPaths v on v.id = o.drv \
             where o.path = ?",
        )
    }

    /// For each valid derivation its outputs, as far as they are known, valid
    /// or not.
    pub fn derivation_outputs(
        &mut self,
        derivations: &[StorePath],
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        self.paths_for_each(
            derivations,
            "select o.path from DerivationOutputs o join ValidPaths v on v.id = o.drv \
             where v.path = ?",
        )
    }

    fn paths_for_each(
        &mut self,
        paths: &[StorePath],
        query: &str,
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        let found = self.read(|db| {
            let mut query = db.connection.prepare_cached(query)?;
            let mut found = Vec::with_capacity(paths.len());
            for path in paths {
                let absolute = path.to_absolute(&db.store_dir);
                let rows = query.query_map([absolute], |row| row.get(0))?;
                found.push(rows.collect::<Result<Vec<String>, _>>()?);
            }
            Ok(found)
        })?;
        let parse = |path: &String| Ok(StorePath::from_absolute(path, &self.store_dir)?);
        found.iter().map(|paths| paths.iter().map(parse).collect()).collect()
    }

    /// Reads in one transaction; where the database is taken for a fixed file,
    /// until it was one while it was read.
    fn read<T>(
        &mut self,
        read: impl Fn(&Database) -> Result<T, rusqlite::Error>,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            if self.has_changed()? {
                let opened = open::open(&self.path)?;
                (self.connection, self.fixed) = (opened.connection, opened.fixed);
            }
            let answer = self
                .connection
                .unchecked_transaction()
                .and_then(|transaction| {
                    let answer = read(self)?;
                    transaction.finish()?;
                    Ok(answer)
                })
                .map_err(|source| Error::Sqlite { path: self.path.clone(), source });
            // What a changing file made SQLite say counts for nothing, either.
            if !self.has_changed()? {
                return answer;
            }
        }
        Err(Error::Changing(self.path.clone()))
    }

    fn has_changed(&self) -> Result<bool, Error> {
        match &self.fixed {
            Some(stamp) => Ok(Stamp::of(&self.path)? != *stamp),
            None => Ok(false),
        }
    }
}

/// A row of `ValidPaths`, its id first.
fn texts(row: &Row<'_>) -> Result<(i64, Texts), rusqlite::Error> {
    let number = |column| -> Result<u64, rusqlite::Error> {
        let number: Option<i64> = row.get(column)?;
        Ok(number.and_then(|n| u64::try_from(n).ok()).unwrap_or_default())
    };
    let text = |column| row.get::<_, Option<String>>(column);
    let signatures = text(6)?.unwrap_or_default();
    let texts = Texts {
        nar_hash: row.get(1)?,
        nar_size: number(2)?,
        references: Vec::new(),
        deriver: text(3)?.unwrap_or_default(),
        registration_time: number(4)?,
        ultimate: number(5)? != 0,
        signatures: signatures.split_ascii_whitespace().map(str::to_owned).collect(),
        ca: text(7)?.unwrap_or_default(),
    };
    Ok((row.get(0)?, texts))
}
