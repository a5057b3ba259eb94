//! Garbage collection, asked for by whoever looks after the server.

use std::io;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, header};
use axum::response::Response;
use granary_api::gc::{Collect, Collected};
use narbridge::gc::GcOptions;
use tokio::sync::oneshot;

use super::{Call, json};
use crate::error::ApiError;

/// Proxies give up on a connection on which nothing moves.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Collects. The answer is there when that is done; it goes on if nobody waits for it any more.
pub(super) async fn collect(call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    call.caller.require_all()?;
    let by = call.caller.subject().unwrap_or_default().to_owned();
    let wanted: Collect = json::read(&call.headers, call.body).await?;
    let share = |share: &f64| (0.0..=1.0).contains(share);
    if !wanted.max_unneeded.as_ref().is_none_or(share) {
        let text = "max_unneeded: a share from 0 to 1 is wanted";
        return Err(ApiError::BadRequest(text.to_owned()));
    }
    let usual = call.app.limits.collection;
    let options = GcOptions {
        grace: wanted.grace.map_or(usual.grace, Duration::from_secs),
        max_unneeded: wanted.max_unneeded.unwrap_or(usual.max_unneeded),
        rate: wanted.rate.or(usual.rate),
        dry_run: wanted.dry_run,
        ..usual
    };
    tracing::info!(by, ?wanted, "collecting garbage");
    let (done, outcome) = oneshot::channel();
    let house = call.app.house.clone();
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let collected = match house.collect(&options, &mut |_| ()) {
            Ok(None) => Collected::Busy,
            Ok(Some(report)) => Collected::Done(Box::new(report.told(started.elapsed()))),
            Err(error) => {
                tracing::error!(%error, "garbage collection failed");
                Collected::Failed(granary_api::error::with_causes(&error))
            }
        };
        drop(done.send(collected));
    });
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let body = Body::from_stream(told(outcome));
    answer.body(body).map_err(|_| ApiError::Internal)
}

/// White space until there is something to tell.
fn told(
    outcome: oneshot::Receiver<Collected>,
) -> impl futures_util::Stream<Item = io::Result<Vec<u8>>> {
    futures_util::stream::unfold(Some(outcome), |outcome| async {
        let mut outcome = outcome?;
        match tokio::time::timeout(SIGN_OF_LIFE, &mut outcome).await {
            Err(_) => Some((Ok(b"\n".to_vec()), Some(outcome))),
            Ok(Ok(collected)) => {
                Some((serde_json::to_vec(&collected).map_err(io::Error::other), None))
            }
            Ok(Err(_)) => Some((Err(io::Error::other("the collection ended")), None)),
        }
    })
}
