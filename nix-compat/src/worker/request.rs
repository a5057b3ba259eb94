//! What a client asks for: an operation's number and its arguments.
//!
//! | argument | on the wire |
//! |---|---|
//! | store path | its absolute path |
//! | target | a store path, or outputs of a derivation: see [`Target`] |
//! | mode | 0 build, 1 repair, 2 check |
//!
//! Operations that change a store are not here: their arguments cannot be told from what follows
//! them without reading them, so after one of them the place in the stream is lost.

use std::io::{Read, Write};
use std::mem;

use super::Version;
pub use super::target::{ArgumentError, BuildMode, Target};
use super::wire::{self, ReadWire, WriteWire};
use crate::store_path::{StoreDir, StorePath, StorePathHash};

/// A question to a store, or one of the few commands that a store which never changes can obey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// 1: whether the path is valid.
    IsValidPath(StorePath),
    /// 3: whether the path could be substituted.
    HasSubstitutes(StorePath),
    /// 6: the valid paths that refer to it.
    QueryReferrers(StorePath),
    /// 9: make them valid.
    BuildPaths(Vec<Target>, BuildMode),
    /// 10: make it valid.
    EnsurePath(StorePath),
    /// 11: keep it while the connection lasts.
    AddTempRoot(StorePath),
    /// 12: keep what this symlink points to.
    AddIndirectRoot(String),
    /// 13: wait for a collection of garbage to end.
    SyncWithGc,
    /// 14: what keeps paths alive.
    FindRoots,
    /// 19: the client's settings, which say nothing to a store that does not build.
    SetOptions,
    /// 21: what substituters know of it.
    QuerySubstitutablePathInfo(StorePath),
    /// 22: a derivation's outputs.
    QueryDerivationOutputs(StorePath),
    /// 23: every valid path.
    QueryAllValidPaths,
    /// 26: what is known of it.
    QueryPathInfo(StorePath),
    /// 28: the names of a derivation's outputs.
    QueryDerivationOutputNames(StorePath),
    /// 29: the valid path with this hash.
    QueryPathFromHashPart(StorePathHash),
    /// 30: what substituters know of them.
    QuerySubstitutablePathInfos(Vec<StorePath>),
    /// 31: which of them are valid.
    QueryValidPaths(Vec<StorePath>),
    /// 32: which of them could be substituted.
    QuerySubstitutablePaths(Vec<StorePath>),
    /// 33: the valid derivations that have it as an output.
    QueryValidDerivers(StorePath),
    /// 34: link equal files.
    OptimiseStore,
    /// 35: whether paths are as they should be.
    VerifyStore {
        /// Their contents as well.
        check_contents: bool,
        /// And make them so.
        repair: bool,
    },
    /// 38: its NAR.
    NarFromPath(StorePath),
    /// 40: what would have to be done to make them valid.
    QueryMissing(Vec<Target>),
    /// 41: a derivation's outputs by name.
    QueryDerivationOutputMap(StorePath),
    /// 43: where this output of a content-addressed derivation is.
    QueryRealisation(String),
    /// 46: make them valid, and say how it went.
    BuildPathsWithResults(Vec<Target>, BuildMode),
}

/// Why a request could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection broke, or what came over it is not the protocol.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// An operation that is not here, by its number. Its arguments were not read.
    #[error("the operation {0} is not known")]
    Operation(u64),
    /// It was read to its end, and makes no sense.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// What a peer meant, once all of it has been read.
type Checked<T> = Result<T, ArgumentError>;

impl Request {
    /// The next request.
    pub fn read(
        from: &mut impl Read,
        version: Version,
        store_dir: &StoreDir,
    ) -> Result<Self, ReadError> {
        let operation = from.read_number()?;
        let mut from = Arguments { from, version, store_dir };
        let request = match operation {
            1 => from.path()?.map(Request::IsValidPath),
            3 => from.path()?.map(Request::HasSubstitutes),
            6 => from.path()?.map(Request::QueryReferrers),
            9 => from.build()?.map(|(targets, mode)| Request::BuildPaths(targets, mode)),
            10 => from.path()?.map(Request::EnsurePath),
            11 => from.path()?.map(Request::AddTempRoot),
            12 => Ok(Request::AddIndirectRoot(from.from.read_text()?)),
            13 => Ok(Request::SyncWithGc),
            14 => Ok(Request::FindRoots),
            19 => {
                from.options()?;
                Ok(Request::SetOptions)
            }
            21 => from.path()?.map(Request::QuerySubstitutablePathInfo),
            22 => from.path()?.map(Request::QueryDerivationOutputs),
            23 => Ok(Request::QueryAllValidPaths),
            26 => from.path()?.map(Request::QueryPathInfo),
            28 => from.path()?.map(Request::QueryDerivationOutputNames),
            29 => {
                let hash = from.from.read_text()?.parse().map_err(ArgumentError::StorePath);
                hash.map(Request::QueryPathFromHashPart)
            }
            30 => from.paths(version.at_least(22))?.map(Request::QuerySubstitutablePathInfos),
            31 => {
                let paths = from.paths(false)?;
                if version.at_least(27) {
                    let _substitute = from.from.read_bool()?;
                }
                paths.map(Request::QueryValidPaths)
            }
            32 => from.paths(false)?.map(Request::QuerySubstitutablePaths),
            33 => from.path()?.map(Request::QueryValidDerivers),
            34 => Ok(Request::OptimiseStore),
            35 => {
                let (check_contents, repair) = (from.from.read_bool()?, from.from.read_bool()?);
                Ok(Request::VerifyStore { check_contents, repair })
            }
            38 => from.path()?.map(Request::NarFromPath),
            40 => from.targets()?.map(Request::QueryMissing),
            41 => from.path()?.map(Request::QueryDerivationOutputMap),
            43 => Ok(Request::QueryRealisation(from.from.read_text()?)),
            46 => {
                from.build()?.map(|(targets, mode)| Request::BuildPathsWithResults(targets, mode))
            }
            _ => return Err(ReadError::Operation(operation)),
        };
        Ok(request?)
    }

    /// The number of its operation.
    pub fn operation(&self) -> u64 {
        match self {
            Request::IsValidPath(_) => 1,
            Request::HasSubstitutes(_) => 3,
            Request::QueryReferrers(_) => 6,
            Request::BuildPaths(..) => 9,
            Request::EnsurePath(_) => 10,
            Request::AddTempRoot(_) => 11,
            Request::AddIndirectRoot(_) => 12,
            Request::SyncWithGc => 13,
            Request::FindRoots => 14,
            Request::SetOptions => 19,
            Request::QuerySubstitutablePathInfo(_) => 21,
            Request::QueryDerivationOutputs(_) => 22,
            Request::QueryAllValidPaths => 23,
            Request::QueryPathInfo(_) => 26,
            Request::QueryDerivationOutputNames(_) => 28,
            Request::QueryPathFromHashPart(_) => 29,
            Request::QuerySubstitutablePathInfos(_) => 30,
            Request::QueryValidPaths(_) => 31,
            Request::QuerySubstitutablePaths(_) => 32,
            Request::QueryValidDerivers(_) => 33,
            Request::OptimiseStore => 34,
            Request::VerifyStore { .. } => 35,
            Request::NarFromPath(_) => 38,
            Request::QueryMissing(_) => 40,
            Request::QueryDerivationOutputMap(_) => 41,
            Request::QueryRealisation(_) => 43,
            Request::BuildPathsWithResults(..) => 46,
        }
    }

    /// Writes it.
    pub fn write(
        &self,
        to: &mut impl Write,
        version: Version,
        store_dir: &StoreDir,
    ) -> Result<(), wire::Error> {
        to.write_number(self.operation())?;
        match self {
            Request::IsValidPath(path)
            | Request::HasSubstitutes(path)
            | Request::QueryReferrers(path)
            | Request::EnsurePath(path)
            | Request::AddTempRoot(path)
            | Request::QuerySubstitutablePathInfo(path)
            | Request::QueryDerivationOutputs(path)
            | Request::QueryPathInfo(path)
            | Request::QueryDerivationOutputNames(path)
            | Request::QueryValidDerivers(path)
            | Request::NarFromPath(path)
            | Request::QueryDerivationOutputMap(path) => {
                to.write_bytes(path.to_absolute(store_dir))
            }
            Request::QueryValidPaths(paths) => {
                to.write_list(paths.iter().map(|path| path.to_absolute(store_dir)))?;
                // Without asking any substituter.
                if version.at_least(27) { to.write_bool(false) } else { Ok(()) }
            }
            Request::QuerySubstitutablePaths(paths) => {
                to.write_list(paths.iter().map(|path| path.to_absolute(store_dir)))
            }
            Request::QuerySubstitutablePathInfos(paths) => {
                to.write_number(paths.len() as u64)?;
                paths.iter().try_for_each(|path| {
                    to.write_bytes(path.to_absolute(store_dir))?;
                    if version.at_least(22) { to.write_bytes("") } else { Ok(()) }
                })
            }
            Request::BuildPaths(targets, mode) | Request::BuildPathsWithResults(targets, mode) => {
                to.write_list(targets.iter().map(|target| target.to_wire(store_dir)))?;
                to.write_number(*mode as u64)
            }
            Request::QueryMissing(targets) => {
                to.write_list(targets.iter().map(|target| target.to_wire(store_dir)))
            }
            Request::AddIndirectRoot(text) | Request::QueryRealisation(text) => {
                to.write_bytes(text)
            }
            Request::QueryPathFromHashPart(hash) => to.write_bytes(hash.to_string()),
            Request::VerifyStore { check_contents, repair } => {
                to.write_bool(*check_contents)?;
                to.write_bool(*repair)
            }
            Request::SetOptions => (0..=OPTIONS).try_for_each(|_| to.write_number(0)),
            Request::SyncWithGc
            | Request::FindRoots
            | Request::QueryAllValidPaths
            | Request::OptimiseStore => Ok(()),
        }
    }
}

/// Settings that are numbers. A list of named ones follows them.
const OPTIONS: usize = 12;

struct Arguments<'a, R> {
    from: &'a mut R,
    version: Version,
    store_dir: &'a StoreDir,
}

impl<R: Read> Arguments<'_, R> {
    fn path(&mut self) -> Result<Checked<StorePath>, wire::Error> {
        let text = self.from.read_text()?;
        Ok(StorePath::from_absolute(&text, self.store_dir).map_err(ArgumentError::StorePath))
    }

    /// Each with its content address, or without.
    fn paths(&mut self, with_ca: bool) -> Result<Checked<Vec<StorePath>>, wire::Error> {
        self.list(|from| {
            let path = from.path()?;
            if with_ca {
                let _ca = from.from.read_text()?;
            }
            Ok(path)
        })
    }

    fn targets(&mut self) -> Result<Checked<Vec<Target>>, wire::Error> {
        self.list(|from| {
            let text = from.from.read_text()?;
            Ok(Target::from_wire(&text, from.version, from.store_dir))
        })
    }

    fn build(&mut self) -> Result<Checked<(Vec<Target>, BuildMode)>, wire::Error> {
        let targets = self.targets()?;
        let mode = BuildMode::from_wire(self.from.read_number()?);
        Ok(targets.and_then(|targets| Ok((targets, mode?))))
    }

    fn options(&mut self) -> Result<(), wire::Error> {
        for _ in 0..OPTIONS {
            self.from.read_number()?;
        }
        for _ in 0..self.from.read_list_len()? {
            let _name = self.from.read_bytes()?;
            let _value = self.from.read_bytes()?;
        }
        Ok(())
    }

    /// All of a list is read; from the first item on that is wrong nothing is kept.
    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<Checked<T>, wire::Error>,
    ) -> Result<Checked<Vec<T>>, wire::Error> {
        let mut list = Ok(Vec::new());
        for _ in 0..self.from.read_list_len()? {
            let item = item(self)?;
            list = match (mem::replace(&mut list, Ok(Vec::new())), item) {
                (Ok(mut items), Ok(item)) => {
                    items.push(item);
                    Ok(items)
                }
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
        }
        Ok(list)
    }
}
