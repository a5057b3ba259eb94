//! The socket's file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use granary_daemon::{Daemon, ListenError, Options, Socket};
use support::Local;
use tokio::runtime::Runtime;

fn listen(runtime: &Runtime, path: &Path, mode: u32) -> Result<Socket, ListenError> {
    let view = Arc::new(Local::new("/nowhere".into(), Vec::new()));
    Daemon::new(view, runtime.handle().clone(), Options { mode, ..Options::default() }).listen(path)
}

#[test]
fn a_socket_has_its_mode_and_leaves_nothing_behind() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("granary.sock");
    for mode in [0o600, 0o666, 0o660] {
        let socket = listen(&runtime, &path, mode).unwrap();
        assert_eq!(socket.path(), path);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, mode);
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the file outlives its daemon");
    let socket = listen(&runtime, &path, 0o600).unwrap();
    let second = listen(&runtime, &path, 0o600);
    assert!(matches!(second, Err(ListenError::Taken(_))));
    UnixStream::connect(&path).unwrap();
    // Somebody else's file in its place stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "kept").unwrap();
    drop(socket);
    assert!(matches!(listen(&runtime, &path, 0o600), Err(ListenError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn of_daemons_that_start_together_one_listens() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("s");
    for _ in 0..20 {
        drop(UnixListener::bind(&path).unwrap());
        let made: Vec<_> = std::thread::scope(|scope| {
            let start = || listen(&runtime, &path, 0o600);
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (up, down): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        assert_eq!(up.len(), 1);
        assert!(down.iter().all(|down| matches!(down, Err(ListenError::Taken(_)))), "{down:?}");
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn what_cannot_be_a_socket_is_said() {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let said = |path: &Path| listen(&runtime, path, 0o600).unwrap_err().to_string();
    let absent = dir.path().join("absent/s");
    let expected = format!("cannot make the socket {}: No such file", absent.display());
    assert!(said(&absent).starts_with(&expected));
    assert!(said(Path::new("/")).contains("cannot name a socket"));
    assert!(said(&dir.path().join("x".repeat(90))).contains("at most 89 bytes"));
}
