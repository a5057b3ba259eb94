//! Connections: accepted, served, and drained at the end.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

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
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(READ_BUFFER);
    let graceful = GracefulShutdown::new();
    // Ends with this function.
    let _fresh_keys = app.auth.keep_keys_fresh();
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
        let app = app.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let app = app.clone();
            async move {
                let response = routes::answer(app, request.map(Body::new)).await;
                Ok::<_, std::convert::Infallible>(response)
            }
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
