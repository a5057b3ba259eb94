//! The daemon, over its socket. A connection is kept, and made anew when the
//! daemon has closed it: all that is asked can be asked again.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix_compat::store_path::StoreDir;
use nix_compat::worker::{self, Client, wire};

use super::Error;

/// A daemon looks things up in its database: what takes longer than this hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

type Connection = Client<UnixStream, UnixStream>;

/// A daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: PathBuf,
    store_dir: StoreDir,
    connection: Option<Connection>,
}

impl Daemon {
    /// The daemon at this socket, which must be there.
    pub(super) fn open(socket: PathBuf, store_dir: StoreDir) -> Result<Self, Error> {
        let mut daemon = Daemon { socket, store_dir, connection: None };
        daemon.connection = Some(daemon.connect()?);
        Ok(daemon)
    }

    pub(super) fn describe(&self) -> String {
        let greeting = self.connection.as_ref().map(|connection| {
            let greeting = connection.greeting();
            let name = greeting.daemon.as_deref().unwrap_or("of a version that it does not say");
            format!(" {name}, protocol {}", greeting.version)
        });
        format!("Nix daemon{} at {}", greeting.unwrap_or_default(), self.socket.display())
    }

    /// Asks, a second time if the connection turns out to be gone.
    pub(super) fn ask<T>(
        &mut self,
        mut ask: impl FnMut(&mut Connection) -> Result<T, worker::Error>,
    ) -> Result<T, Error> {
        if let Some(mut connection) = self.connection.take() {
            match ask(&mut connection) {
                Ok(answer) => {
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                Err(error) if error.is_disconnect() => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        let mut connection = self.connect()?;
        let answer = ask(&mut connection).map_err(|error| self.failed(error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn connect(&self) -> Result<Connection, Error> {
        let failed = |source| Error::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        let reader = stream.try_clone().map_err(failed)?;
        Client::connect(reader, stream, self.store_dir.clone()).map_err(|error| {
            if error.is_disconnect() {
                return Error::Refused(self.socket.clone());
            }
            self.failed(error)
        })
    }

    fn failed(&self, source: worker::Error) -> Error {
        let socket = self.socket.clone();
        match &source {
            // A read that times out says that it would block.
            worker::Error::Wire(wire::Error::Io(e))
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                Error::Silent(socket)
            }
            _ => Error::Daemon { socket, source: Box::new(source) },
        }
    }
}
