//! Whether this process is alive, and whether it could serve: `/healthz` and `/readyz`.
//!
//! ```text
//! /healthz   200 "ok", as long as the process answers at all; touches nothing
//! /readyz    200 when packs and index answer, else 503
//!            {"ready": true, "store": "ok", "index": "ok"}
//! ```
//!
//! Both are for everybody, so the answers say nothing of where the places are or why they fail; the
//! log does. However often they are asked, each place is asked once a second and once at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use castore::{Cause, Place, StoreError};
use granary_api::error::with_causes;
use narbridge::Storehouse;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::ApiError;
use crate::reply;

/// How long a place may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);

/// Answers for the storehouse.
pub(crate) struct Health {
    house: Arc<Storehouse>,
    store: Watch,
    index: Watch,
}

/// What is said of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Unreachable,
    Silent,
    Failing,
}

impl State {
    fn of(error: &StoreError) -> Self {
        match error.cause() {
            Cause::Unreachable => Self::Unreachable,
            _ => Self::Failing,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "it cannot be reached",
            Self::Silent => "it does not answer within 5 seconds",
            Self::Failing => "it fails; the server's log says why",
        }
    }
}

/// What is known of a place.
struct Watch {
    place: Place,
    patience: Duration,
    /// Held while the place is asked, so that it is asked once for all who want to know.
    last: Mutex<Last>,
}

struct Last {
    state: State,
    at: Option<Instant>,
    /// A question without an answer yet. As long as there is one no other is asked: a place that
    /// hangs would take a thread each time.
    asked: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Watch {
    fn new(place: Place) -> Self {
        Self {
            place,
            patience: PATIENCE,
            last: Mutex::new(Last { state: State::Ok, at: None, asked: None }),
        }
    }

    async fn ask<F>(&self, check: F) -> State
    where
        F: FnOnce(Place) -> Result<(), StoreError> + Send + 'static,
    {
        let mut last = self.last.lock().await;
        if last.at.is_some_and(|at| at.elapsed() < FRESH) {
            return last.state;
        }
        let place = self.place;
        let asked = &mut last.asked;
        let asked = asked.get_or_insert_with(|| tokio::task::spawn_blocking(move || check(place)));
        let (state, why) = match tokio::time::timeout(self.patience, asked).await {
            Err(_) => (State::Silent, String::new()),
            Ok(outcome) => {
                last.asked = None;
                match outcome {
                    Ok(Ok(())) => (State::Ok, String::new()),
                    Ok(Err(error)) => (State::of(&error), with_causes(&error)),
                    Err(error) => (State::Failing, error.to_string()),
                }
            }
        };
        // Told when it begins and when it ends, not at every probe.
        match (last.state, state) {
            (before, now) if before == now => {}
            (_, State::Ok) => tracing::info!(?place, "answers again"),
            (_, now) => tracing::warn!(?place, error = why, "{}", now.sentence()),
        }
        (last.state, last.at) = (state, Some(Instant::now()));
        state
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    store: &'static str,
    index: &'static str,
}

impl Health {
    pub(crate) fn new(house: Arc<Storehouse>) -> Self {
        Self { house, store: Watch::new(Place::Packs), index: Watch::new(Place::Index) }
    }

    /// Answers the request if it is one for these routes.
    pub(crate) async fn answer(&self, method: &Method, path: &str) -> Option<Response> {
        if !matches!(path, "/healthz" | "/readyz") {
            return None;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Some(ApiError::Method("GET, HEAD").into_response());
        }
        if path == "/healthz" {
            return Some(reply::whole(method, "text/plain; charset=utf-8", "ok".into()));
        }
        Some(self.readiness().await)
    }

    async fn readiness(&self) -> Response {
        let check = || {
            let house = self.house.clone();
            move |place| house.check(place)
        };
        let (store, index) = tokio::join!(self.store.ask(check()), self.index.ask(check()));
        let ready = store == State::Ok && index == State::Ok;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (store, index) = (store.sentence(), index.sentence());
        reply::json(status, &Readiness { ready, store, index })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn however_many_ask_a_place_is_asked_once_a_second() {
        let (watch, count) = (Watch::new(Place::Packs), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let count = count.clone();
            watch.ask(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::Io(io::ErrorKind::NetworkDown.into()))
            })
        };
        let started = Instant::now();
        let all = futures_util::future::join_all((0..100).map(|_| ask())).await;
        assert!(all.iter().all(|state| *state == State::Unreachable));
        let asked = count.load(Ordering::Relaxed);
        assert!(asked as u64 <= 1 + started.elapsed().as_secs(), "{asked}");
        tokio::time::sleep(FRESH).await;
        assert_eq!(watch.ask(|_| Ok(())).await, State::Ok, "and that it is back is seen");
    }

    #[tokio::test]
    async fn a_place_that_hangs_holds_one_thread_however_often_it_is_asked() {
        let patience = Duration::from_millis(50);
        let watch = Watch { patience, ..Watch::new(Place::Index) };
        let count = Arc::new(AtomicUsize::new(0));
        let (let_go, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for _ in 0..3 {
            let (count, held) = (count.clone(), held.clone());
            let state = watch.ask(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = held.lock().unwrap().recv();
                Ok(())
            });
            // Nobody who goes away while the place is asked makes it be asked again.
            assert!(tokio::time::timeout(patience / 5, state).await.is_err());
        }
        assert_eq!(watch.ask(|_| Ok(())).await, State::Silent);
        drop(let_go);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
