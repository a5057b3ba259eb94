//! Bodies between the async side and the threads that may block.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use narbridge::nar::{NarBody, NarError, TryWindow};
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Pieces of an upload that may wait to be read. hyper gives at most some 400 KiB at once.
const UPLOAD_QUEUE: usize = 2;
/// How long a client may send nothing at all.
const STALL: Duration = Duration::from_secs(120);
/// Beyond that, no body may come slower than this on average, in bytes per second: less than a modem
/// does, and enough that nobody holds a turn for days.
const SLOWEST: u64 = 1024;
/// After a refusal, so much of what the client still sends is read and thrown away, so that it gets
/// to see the answer instead of a broken connection.
const DRAIN: usize = 8 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// An upload as a blocking reader.
pub(crate) struct UploadReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for UploadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Runs `work` on a thread that may block, feeding it the body.
pub(crate) async fn with_body<T: Send + 'static>(
    mut body: Body,
    work: impl FnOnce(UploadReader) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, pieces) = mpsc::channel(UPLOAD_QUEUE);
    let reader = UploadReader { pieces, current: Bytes::new() };
    let work = tokio::task::spawn_blocking(move || work(reader));
    let mut pace = Pace::new();
    loop {
        let piece = match next_piece(&mut body).await {
            Some(piece) => pace.count(piece),
            None => break,
        };
        let failed = piece.is_err();
        if sender.send(piece).await.is_err() || failed {
            break;
        }
    }
    drop(sender);
    let result = work.await.map_err(|error| {
        tracing::error!(%error, "an upload's thread ended");
        ApiError::Internal
    })?;
    if result.is_err() {
        drain(body).await;
    }
    result
}

/// How fast a body comes.
struct Pace {
    started: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { started: Instant::now(), bytes: 0 }
    }

    /// Counts a piece; an error when all of them came too slowly.
    fn count(&mut self, piece: io::Result<Bytes>) -> io::Result<Bytes> {
        let piece = piece?;
        self.bytes += piece.len() as u64;
        let allowed = STALL + Duration::from_secs(self.bytes / SLOWEST);
        if self.started.elapsed() > allowed {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(piece)
        }
    }
}

async fn next_piece(body: &mut Body) -> Option<io::Result<Bytes>> {
    loop {
        let frame = match tokio::time::timeout(STALL, body.frame()).await {
            Err(_) => return Some(Err(io::ErrorKind::TimedOut.into())),
            Ok(None) => return None,
            Ok(Some(Err(error))) => return Some(Err(io::Error::other(error))),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            return Some(Ok(data));
        }
    }
}

/// Hears out a client that is refused from the head of its request alone.
pub(crate) async fn hear_out(headers: &HeaderMap, body: Body) {
    // One that waits to be told to go on has sent nothing, and must not be told.
    if !headers.contains_key(header::EXPECT) {
        drain(body).await;
    }
}

/// Reads and throws away what a client still sends, up to a bound.
async fn drain(mut body: Body) {
    let _ = tokio::time::timeout(DRAIN_TIME, async {
        let mut left = DRAIN;
        while let Some(Ok(data)) = next_piece(&mut body).await {
            match left.checked_sub(data.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    })
    .await;
}

fn unread(error: io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::TimedOut => ApiError::Timeout,
        _ => ApiError::BadRequest(format!("the upload could not be read: {error}")),
    }
}

/// Reads the first `length` bytes of a body, and leaves the rest in it.
pub(crate) async fn read_prefix(body: &mut Body, length: usize) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::new();
    while out.len() < length {
        let Some(piece) = next_piece(body).await else {
            let text = format!("the body ends after {} of {length} bytes", out.len());
            return Err(ApiError::BadRequest(text));
        };
        let mut piece = piece.map_err(unread)?;
        let rest = piece.split_off(piece.len().min(length - out.len()));
        out.extend_from_slice(&piece);
        if !rest.is_empty() {
            let later = std::mem::take(body).into_data_stream();
            let first = futures_util::stream::once(async { Ok::<_, axum::Error>(rest) });
            *body = Body::from_stream(first.chain(later));
        }
    }
    Ok(out)
}

/// Reads a body of at most `limit` bytes whole.
pub(crate) async fn read_small(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (mut out, mut pace) = (Vec::new(), Pace::new());
    while let Some(piece) = next_piece(&mut body).await {
        let piece = pace.count(piece).map_err(unread)?;
        if out.len() + piece.len() > limit {
            drain(body).await;
            return Err(ApiError::TooLarge(format!("the body is longer than {limit} bytes")));
        }
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "a request's thread ended");
            Err(ApiError::Internal)
        }
    }
}

/// Streams a body whose first window has been read. What is in memory is read on the spot, the rest
/// on threads that may block. An error on the way breaks the connection, so that a body that is cut
/// short looks cut short.
pub(crate) fn stream(first: Option<Bytes>, rest: Box<dyn NarBody>) -> Body {
    let Some(first) = first else { return Body::empty() };
    if rest.is_done() {
        return Body::from(first);
    }
    let state = (Some(first), Some(rest));
    Body::from_stream(futures_util::stream::unfold(state, |(first, rest)| async {
        if let Some(first) = first {
            return Some((Ok(first), (None, rest)));
        }
        match next_window(rest?).await {
            Ok((window, rest)) => Some((Ok(window?), (None, Some(rest)))),
            Err(error) => {
                tracing::error!(%error, "a download was broken off");
                Some((Err(io::Error::other("the server failed")), (None, None)))
            }
        }
    }))
}

async fn next_window(
    mut body: Box<dyn NarBody>,
) -> Result<(Option<Bytes>, Box<dyn NarBody>), NarError> {
    if let TryWindow::Window(window) = body.try_next_window()? {
        return Ok((window, body));
    }
    let read = tokio::task::spawn_blocking(move || Ok((body.next_window()?, body)));
    read.await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}
