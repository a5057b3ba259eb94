//! The Nix store of this machine: what is valid in it, what the paths need, and
//! where their files are.
//!
//! The store is asked through its daemon's socket, else its database is read.
//! Which store, and which of the two, a spec says, with Nix's words ([`LocalStore::open`]).
//! All methods block; answers come within milliseconds.

mod along;
pub(crate) mod closure;
mod daemon;
mod resolve;
mod source;
mod spec;

pub use along::Along;
pub use resolve::ResolveError;
pub use spec::Environment;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::{database, worker};

use source::Source;
use spec::Place;

/// Why the local store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the name of a store on this machine.
    #[error(
        "{0:?} is no Nix store on this machine: --store, or NIX_REMOTE, takes a directory that \
         holds nix/store, or one of auto, daemon, local, local?root=DIR and unix://SOCKET"
    )]
    Spec(String),
    /// A parameter of the spec is wrong.
    #[error("the store {spec:?}: {name}: {value:?} is not an absolute path")]
    Parameter {
        /// The spec.
        spec: String,
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The daemon's socket.
    #[error("cannot reach the Nix daemon at {socket}: {source}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The daemon hung up before it said anything.
    #[error(
        "the Nix daemon at {0} hung up: is this user among its allowed-users? \
         `--store local` reads the store without it"
    )]
    Refused(PathBuf),
    /// The daemon does not answer.
    #[error("the Nix daemon at {0} does not answer; `--store local` reads the store without it")]
    Silent(PathBuf),
    /// The daemon answered, but not what was asked.
    #[error("the Nix daemon at {socket}: {source}")]
    Daemon {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: Box<worker::Error>,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Neither a daemon nor a database.
    #[error(
        "found no Nix store: {daemon}; and {database}. Is Nix installed? \
         --store names a store elsewhere"
    )]
    NoStore {
        /// What was wrong with the daemon.
        daemon: Box<Error>,
        /// What was wrong with the database.
        database: Box<Error>,
    },
    /// A path that was asked for is not valid.
    #[error("{0} is not valid in the Nix store: it was never built, or has been collected")]
    NotValid(String),
    /// A valid path refers to one that is not.
    #[error(
        "{referrer} refers to {path}, which is not valid in the Nix store: \
         it is being collected, or the store is damaged (nix-store --verify)"
    )]
    Dangling {
        /// The path that refers.
        referrer: String,
        /// The path it refers to.
        path: String,
    },
}

/// The store of this machine.
#[derive(Debug)]
pub struct LocalStore {
    place: Place,
    source: Mutex<Source>,
}

impl LocalStore {
    /// Opens the store that `spec` says, else `NIX_REMOTE`, else the first that
    /// is there of the daemon and the database.
    ///
    /// | spec | store |
    /// |---|---|
    /// | `auto`, empty | the daemon, else the database |
    /// | `daemon`, `unix://SOCKET` | the daemon |
    /// | `local` | the database |
    /// | `DIR`, `local?root=DIR` | the database of the chroot store in DIR |
    ///
    /// After a `?`, joined by `&`: `root` and `real` (where the files are),
    /// `state` (where the database is), `store` (the directory in the paths).
    pub fn open(spec: Option<&str>) -> Result<Self, Error> {
        Self::open_in(spec, &Environment::of_process())
    }

    /// The same, with another environment than the process's.
    pub fn open_in(spec: Option<&str>, environment: &Environment) -> Result<Self, Error> {
        let (place, source) = source::open(spec, environment)?;
        Ok(LocalStore { place, source: Mutex::new(source) })
    }

    /// The directory that the store's paths begin with, `/nix/store` mostly.
    pub fn store_dir(&self) -> &StoreDir {
        &self.place.store_dir
    }

    /// Where a path's files are. Not the path itself in a chroot store.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.place.real.join(path.to_string())
    }

    /// The directory of the store's files.
    pub fn real_dir(&self) -> &Path {
        &self.place.real
    }

    /// How the store is asked, for people.
    pub fn describe(&self) -> String {
        self.with(|source| source.describe())
    }

    /// The store path that a path leads to in the store that `spec` says, without
    /// asking the store anything.
    pub fn resolve_in(spec: Option<&str>, path: &Path) -> Result<StorePath, ResolveError> {
        let (_, place) = spec::parse(spec, &Environment::of_process())
            .map_err(|source| ResolveError::Spec(Box::new(source)))?;
        resolve::resolve(path, &place)
    }

    /// The store path that a path in the file system leads to: itself, what
    /// lies in it, or a symlink to it such as `./result` or a profile.
    pub fn resolve(&self, path: &Path) -> Result<StorePath, ResolveError> {
        resolve::resolve(path, &self.place)
    }

    /// What the store knows about a path, nothing if it is not valid.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, Error> {
        Ok(self.path_infos(std::slice::from_ref(path))?.pop().flatten())
    }

    /// The same for many paths.
    pub fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, Error> {
        self.with(|source| source.path_infos(paths))
    }

    /// The paths and everything they refer to, directly or not, each once and
    /// after what it refers to.
    pub fn closure(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, Error> {
        self.closure_with(paths, Along::Nothing)
    }

    /// These paths without what they refer to, each once and after those of them that it refers to.
    pub fn alone(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, Error> {
        self.with(|source| {
            closure::alone(paths, |paths| source.path_infos(paths), self.store_dir())
        })
    }

    /// The closure, with what the paths were built from.
    pub fn closure_with(&self, paths: &[StorePath], along: Along) -> Result<Vec<PathInfo>, Error> {
        self.with(|source| {
            let roots = along::roots(source, paths, along, self.store_dir())?;
            closure::closure(source, &roots, self.store_dir())
        })
    }

    /// All valid paths. Names that not every Nix takes are left out, and logged.
    pub fn all_paths(&self) -> Result<Vec<StorePath>, Error> {
        let paths = self.with(|source| source.all_paths())?;
        let known = |path: Result<StorePath, _>| {
            path.inspect_err(|error| tracing::warn!("left out of the store's paths: {error}")).ok()
        };
        Ok(paths.into_iter().filter_map(known).collect())
    }

    /// A panic elsewhere cannot have left the source in a state of its own: a
    /// connection used after an error says so.
    fn with<T>(&self, ask: impl FnOnce(&mut Source) -> T) -> T {
        ask(&mut self.source.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
