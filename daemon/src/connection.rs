//! One client, from its greeting to its end.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use granary_lazy::View;
use nix_compat::worker::request::{ReadError, Request};
use nix_compat::worker::server::{Error, Hello, Server};
use nix_compat::worker::wire;
use nix_compat::worker::{Trust, Version};

use crate::answers::Answers;
use crate::nar::{self, NarError};
use crate::refusal::{Refusal, changes};

/// How long a greeting, or the rest of a request that has begun, may keep silent.
const HALFWAY: Duration = Duration::from_secs(20);

/// How long a client may leave an answer unread. One that is suspended comes back to an error.
const UNREAD: Duration = Duration::from_secs(120);

/// How long what a client still sends is listened to after its last answer, and how much of it: it
/// reads the answer only when it has sent everything.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: u64 = 256 * 1024 * 1024;
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// Nobody is trusted: there is nothing that only a trusted client may do.
const HELLO: Hello<'_> = Hello {
    newest: Version::MAX,
    name: concat!("Granary ", env!("CARGO_PKG_VERSION")),
    trust: Trust::NotTrusted,
};

fn set_timeouts(stream: &UnixStream, read: Option<Duration>) -> Result<(), Error> {
    let set =
        || stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(Some(UNREAD)));
    set().map_err(|error| Error::Wire(error.into()))
}

/// Tells a client why it is not served.
pub fn turn_away<V: View>(
    stream: &UnixStream,
    answers: &Answers<V>,
    why: &str,
) -> Result<(), Error> {
    set_timeouts(stream, Some(LINGER_SILENCE))?;
    Server::turn_away(stream, stream, answers.store_dir().clone(), &HELLO, why)
}

/// Answers a client until it leaves.
pub fn serve<V: View>(stream: &UnixStream, answers: &Answers<V>) -> Result<(), Error> {
    set_timeouts(stream, Some(HALFWAY))?;
    let mut server = Server::accept(stream, stream, answers.store_dir().clone(), &HELLO)?;
    loop {
        // Between requests a client may be silent for as long as it likes.
        set_timeouts(stream, None)?;
        if !server.wait()? {
            return Ok(());
        }
        set_timeouts(stream, Some(HALFWAY))?;
        match server.request() {
            Ok(Request::NarFromPath(path)) => match answers.tree(&path) {
                Ok(tree) => {
                    let sent = server.answer_raw(|to| nar::write(to, answers, &tree));
                    match sent {
                        Ok(()) => {}
                        Err(NarError::Connection(error)) => return Err(error),
                        Err(NarError::Nar(error)) => {
                            // A NAR that is cut off can be told in no other way.
                            tracing::warn!("the NAR of {path} was cut off: {error}");
                            return Ok(());
                        }
                    }
                }
                Err(refusal) => server.refuse(&refusal.to_string())?,
            },
            Ok(request) => match answers.answer(request) {
                Ok(answer) => server.answer(&answer)?,
                Err(refusal) => server.refuse(&refusal.to_string())?,
            },
            Err(Error::Request(ReadError::Argument(error))) => server.refuse(&error.to_string())?,
            Err(Error::Request(ReadError::Operation(operation))) => {
                let why = match changes(operation) {
                    Some(what) => {
                        let (what, name) = (what.to_owned(), answers.name().to_owned());
                        Refusal::ReadOnly { what, name }.to_string()
                    }
                    None => ReadError::Operation(operation).to_string(),
                };
                server.refuse(&why)?;
                return linger(stream);
            }
            Err(error @ (Error::TooLong(_) | Error::Wire(_))) if !error.is_disconnect() => {
                server.refuse(&error.to_string())?;
                linger(stream)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Hears the client out, so that it comes to read why it was refused.
fn linger(stream: &UnixStream) -> Result<(), Error> {
    let wire = |error: io::Error| Error::Wire(wire::Error::Io(error));
    stream.shutdown(Shutdown::Write).map_err(wire)?;
    stream.set_read_timeout(Some(LINGER_SILENCE)).map_err(wire)?;
    let (started, mut rest, mut buffer) = (Instant::now(), stream.take(LINGER_BYTES), [0; 16384]);
    while started.elapsed() < LINGER {
        if !matches!(rest.read(&mut buffer), Ok(1..)) {
            break;
        }
    }
    Ok(())
}
