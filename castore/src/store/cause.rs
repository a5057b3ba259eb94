//! What an error comes down to, however deep the reason lies.
//!
//! Whoever answers for the store has to tell three things apart from plain faults: that a place is
//! out of reach, and will be back; that a disk is full; and that bytes are gone, which somebody else
//! may still have. Errors that are transparent leave themselves out of their own chain of sources,
//! so the known ones are looked into by their kind.

use std::error::Error;
use std::io;

use super::StoreError;
use crate::facts::CommitError;
use crate::index::IndexError;
use crate::pack::PackError;
use crate::upload::UploadError;

/// What an error comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The store's packs or its index cannot be reached; the same may be asked again later.
    Unreachable,
    /// There is no room.
    Full,
    /// The bytes that were asked for are not there any more, or damaged.
    Lost,
    /// Anything else.
    Fault,
}

impl Cause {
    /// What `error` comes down to.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let cause = Self::here(error);
            if cause != Self::Fault {
                return cause;
            }
            next = error.source();
        }
        Self::Fault
    }

    fn here(error: &(dyn Error + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Self::of_io(error);
        }
        if let Some(error) = error.downcast_ref::<StoreError>() {
            return error.cause();
        }
        if let Some(CommitError::Storage(inner)) = error.downcast_ref() {
            return Self::of(&**inner);
        }
        if let Some(IndexError::Unavailable { .. }) = error.downcast_ref() {
            return Self::Unreachable;
        }
        match error.downcast_ref() {
            Some(UploadError::Io(error)) => Self::of_io(error),
            Some(UploadError::Store(error)) => error.cause(),
            _ => Self::Fault,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            // What an object store that cannot be reached is reported as.
            io::ErrorKind::NetworkDown => Self::Unreachable,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => error.get_ref().map_or(Self::Fault, |inner| Self::of(inner)),
        }
    }

    /// Of an error of reading a pack: one that is not there takes what was in it along.
    fn of_reading(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Lost,
            _ => Self::of_io(error),
        }
    }
}

impl StoreError {
    /// What it comes down to.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => Cause::Lost,
            Self::Io(error) | Self::Pack(PackError::Io { source: error, .. }) => {
                Cause::of_reading(error)
            }
            Self::File { source, .. } => Cause::of_io(source),
            Self::Index(error) => Cause::of(error),
            // What cannot be written is not lost.
            Self::Commit(error) => match Cause::of(error) {
                Cause::Lost => Cause::Fault,
                cause => cause,
            },
            Self::Pack(_)
            | Self::Locked(_)
            | Self::InUse
            | Self::ForeignIndex
            | Self::UnfinishedCopy { .. }
            | Self::Tree(_) => Cause::Fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Digest;
    use crate::pack::{Kind, PackId};

    fn down() -> io::Error {
        io::ErrorKind::NetworkDown.into()
    }

    fn unavailable() -> IndexError {
        IndexError::Unavailable { engine: "test", source: "nobody listens".into() }
    }

    #[test]
    fn an_error_is_known_for_what_it_is_however_it_is_wrapped() {
        let missing = || StoreError::Missing { kind: Kind::Chunk, digest: Digest::of(b"x") };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let pack = |source| PackError::Io { pack: PackId::from_bytes([1; 16]), source };
        let table: Vec<(Box<dyn Error>, Cause)> = vec![
            (Box::new(down()), Cause::Unreachable),
            (Box::new(io::Error::other(down())), Cause::Unreachable),
            (Box::new(io::Error::other(StoreError::Io(down()))), Cause::Unreachable),
            (Box::new(StoreError::Io(down())), Cause::Unreachable),
            (Box::new(StoreError::Pack(pack(down()))), Cause::Unreachable),
            (Box::new(UploadError::Io(down())), Cause::Unreachable),
            (Box::new(UploadError::Store(StoreError::Io(down()))), Cause::Unreachable),
            (Box::new(CommitError::Storage(Arc::new(down()))), Cause::Unreachable),
            (Box::new(CommitError::Storage(Arc::new(unavailable()))), Cause::Unreachable),
            (Box::new(StoreError::Index(unavailable())), Cause::Unreachable),
            (
                Box::new(StoreError::Commit(CommitError::Storage(Arc::new(unavailable())))),
                Cause::Unreachable,
            ),
            (Box::new(StoreError::Io(io::ErrorKind::StorageFull.into())), Cause::Full),
            (
                Box::new(CommitError::Storage(Arc::new(io::Error::from(
                    io::ErrorKind::QuotaExceeded,
                )))),
                Cause::Full,
            ),
            (Box::new(missing()), Cause::Lost),
            (Box::new(io::Error::other(missing())), Cause::Lost),
            (Box::new(StoreError::Io(gone())), Cause::Lost),
            (Box::new(StoreError::Pack(pack(gone()))), Cause::Lost),
            (Box::new(gone()), Cause::Fault),
            (Box::new(UploadError::Io(gone())), Cause::Fault),
            (Box::new(StoreError::Commit(CommitError::Storage(Arc::new(missing())))), Cause::Fault),
            (Box::new(StoreError::Commit(CommitError::Conflict)), Cause::Fault),
            (Box::new(StoreError::Io(io::ErrorKind::PermissionDenied.into())), Cause::Fault),
        ];
        for (error, cause) in table {
            assert_eq!(Cause::of(&*error), cause, "{error:?}");
        }
    }
}
