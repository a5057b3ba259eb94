//! What answers questions about a store: its daemon, or its database.

use std::path::PathBuf;

use nix_compat::database::Database;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{self, StorePath};

use super::Error;
use super::daemon::Daemon;
use super::spec::{self, Environment, Place, Way};

/// What answers.
#[derive(Debug)]
pub(super) enum Source {
    Daemon(Daemon),
    Database(PathBuf, Database),
}

/// Finds the store that is meant, and a source for it.
pub(super) fn open(
    spec: Option<&str>,
    environment: &Environment,
) -> Result<(Place, Source), Error> {
    let (way, place) = spec::parse(spec, environment)?;
    let daemon = || Daemon::open(place.socket.clone(), place.store_dir.clone()).map(Source::Daemon);
    let database = || -> Result<Source, Error> {
        let database = Database::open(&place.database, place.store_dir.clone())?;
        Ok(Source::Database(place.database.clone(), database))
    };
    let source = match way {
        Way::Daemon => daemon()?,
        Way::Database => database()?,
        Way::Auto => match daemon() {
            Ok(source) => source,
            Err(no_daemon) => database().map_err(|no_database| Error::NoStore {
                daemon: Box::new(no_daemon),
                database: Box::new(no_database),
            })?,
        },
    };
    Ok((place, source))
}

impl Source {
    pub(super) fn describe(&self) -> String {
        match self {
            Source::Daemon(daemon) => daemon.describe(),
            Source::Database(path, _) => format!("Nix's database {}", path.display()),
        }
    }

    pub(super) fn path_infos(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, Error> {
        match self {
            Source::Daemon(daemon) => daemon.ask(|connection| connection.query_path_infos(paths)),
            Source::Database(_, database) => Ok(database.path_infos(paths)?),
        }
    }

    pub(super) fn all_paths(&mut self) -> Result<Vec<Result<StorePath, store_path::Error>>, Error> {
        match self {
            Source::Daemon(daemon) => daemon.ask(|connection| connection.query_all_valid_paths()),
            Source::Database(_, database) => Ok(database.all_paths()?),
        }
    }

    pub(super) fn valid_derivers(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        match self {
            Source::Daemon(daemon) => {
                daemon.ask(|connection| connection.query_valid_derivers(paths))
            }
            Source::Database(_, database) => Ok(database.valid_derivers(paths)?),
        }
    }

    pub(super) fn derivation_outputs(
        &mut self,
        derivations: &[StorePath],
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        match self {
            Source::Daemon(daemon) => {
                daemon.ask(|connection| connection.query_derivation_outputs(derivations))
            }
            Source::Database(_, database) => Ok(database.derivation_outputs(derivations)?),
        }
    }
}
