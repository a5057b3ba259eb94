//! Connections: accepted, served, and drained at the end.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use narbridge::Storehouse;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::{App, routes};

/// How long a client may take to send the head of a request. Idle connections end by it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// What hyper may read ahead of an upload.
const READ_BUFFER: usize = 256 * 1024;
/// After an error of accept (too many open files), so long nothing is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests that are under way at the end may take.
const DRAIN: Duration = Duration::from_secs(30);

/// Serves connections until `stop` is done; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    // Ends with this function.
    let _fresh_keys = app.auth.keep_keys_fresh();
    accept(listener, move |request| routes::answer(app.clone(), request), stop).await
}

/// Serves `/healthz` and `/readyz` and nothing else: for a process that works on a storehouse and
/// has no doors.
pub async fn serve_health(
    listener: TcpListener,
    house: Arc<Storehouse>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let health = Arc::new(Health::new(house));
    accept(listener, move |request| routes::answer_health(health.clone(), request), stop).await
}

async fn accept<F>(
    listener: TcpListener,
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    F: Future<Output = Response> + Send + 'static,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(READ_BUFFER);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let response = answer(request.map(Body::new));
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in {} s; they are cut off", DRAIN.as_secs());
    }
    Ok(())
}
