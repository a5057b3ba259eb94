//! Bodies on their way: counted, and watched for standing still.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Pieces that a body is handed to the connection in. Small enough that counting them follows what
/// really leaves, and that a slow line moves one well within the time for standing still.
const PIECE: usize = 64 * 1024;

/// What went over the wire, in bytes of bodies. What is sent again counts again.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    retries: AtomicU64,
}

impl Traffic {
    /// Bytes of bodies handed to connections.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of bodies received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Requests that were sent again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line that moves nothing for longer is not moving, however slow it is.
const GAP: Duration = Duration::from_secs(10);

/// When a request last moved.
#[derive(Debug)]
pub(super) struct Pulse {
    started: Instant,
    /// Milliseconds after `started`.
    last: AtomicU64,
    /// Milliseconds during which it moved.
    moved: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0), moved: AtomicU64::new(0) }
    }

    pub(super) fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let gap = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        if Duration::from_millis(gap) <= GAP {
            self.moved.fetch_add(gap, Ordering::Relaxed);
        }
    }

    /// For how long in all nothing has moved.
    pub(super) fn still(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(moved)
    }

    /// Returns once nothing has moved for that long.
    pub(super) async fn stopped(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let still = self.started.elapsed().saturating_sub(last);
            match limit.checked_sub(still) {
                None | Some(Duration::ZERO) => return,
                Some(rest) => tokio::time::sleep(rest).await,
            }
        }
    }
}

/// The body of a request.
pub(super) struct Outgoing {
    rest: Bytes,
    pulse: Arc<Pulse>,
    traffic: Arc<Traffic>,
}

impl Outgoing {
    pub(super) fn new(bytes: Bytes, pulse: Arc<Pulse>, traffic: Arc<Traffic>) -> Self {
        Self { rest: bytes, pulse, traffic }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.pulse.beat();
        self.traffic.sent.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    /// Exact, so that the request has a Content-Length: some proxies want one.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
