//! The socket: where clients connect.
//!
//! It appears under its name at once with its mode: it is made in a directory that nobody else may
//! enter, and renamed. A socket that nobody listens on any more is replaced, and nothing else is.
//! Daemons that start at the same moment take turns by a lock on the directory.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;

/// How long to wait for another daemon that starts in the same directory.
const TURN: Duration = Duration::from_secs(5);

/// Longest path of a socket, by Linux.
const MAX_PATH: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("a daemon is listening on {0} already; stop it first, or choose another socket")]
    Taken(PathBuf),
    /// Something else is in its place.
    #[error("{0} exists and is no socket; remove it, or choose another socket")]
    NotASocket(PathBuf),
    /// The path does not name a file, or not one that fits.
    #[error(
        "{} cannot name a socket: with its directory a socket's path has at most {} bytes",
        .0.display(), MAX_PATH - PRIVATE_LEN
    )]
    Path(PathBuf),
    /// The system refused.
    #[error("cannot make the socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What the private directory adds to the path: `/.` and 16 digits.
const PRIVATE_LEN: usize = 18;

/// A socket that clients can connect to. Its file is gone when it is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode: the file may be another's by the time this ends.
    file: (u64, u64),
}

impl Socket {
    /// Makes the socket. The directory must be there. Call it on a runtime.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { path: path.to_owned(), source };
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ListenError::Path(path.to_owned()));
        };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        if directory.as_os_str().len() + 1 + name.len() + PRIVATE_LEN > MAX_PATH {
            return Err(ListenError::Path(path.to_owned()));
        }
        let lock = File::open(directory).map_err(failed)?;
        wait_for_turn(&lock).map_err(failed)?;
        make_room(path)?;

        let private = Private::new(directory).map_err(failed)?;
        let made = private.0.join(name);
        let listener = UnixListener::bind(&made).map_err(failed)?;
        fs::set_permissions(&made, Permissions::from_mode(mode)).map_err(failed)?;
        let metadata = fs::symlink_metadata(&made).map_err(failed)?;
        fs::rename(&made, path).map_err(failed)?;
        let file = (metadata.dev(), metadata.ino());
        Ok(Socket { path: path.to_owned(), listener, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

/// A directory of our own, gone when dropped with what is left in it.
struct Private(PathBuf);

impl Private {
    fn new(parent: &Path) -> io::Result<Self> {
        let nanos =
            std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let name = format!(".{:08x}{nanos:08x}", std::process::id());
        let path = parent.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Private(path))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Empty but after an error, and then it holds one socket.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wait_for_turn(directory: &File) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if started.elapsed() < TURN => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::TimedOut, "its directory is locked"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Sees that what is at `path`, if anything, may be replaced.
fn make_room(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(ListenError::NotASocket(path.to_owned()))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => Err(ListenError::Taken(path.to_owned())),
        },
    }
}
