//! How many requests may be under way, by what the server can take.
//!
//! Additive increase, multiplicative decrease, as TCP does it: a server that says "slow down" halves
//! the number and gets a pause, each answer raises it a little. All requests of a backend share it.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// At the beginning. Two seals (two parts each), four hints and a few readers.
const START: f64 = 16.0;
/// Never fewer, or nothing would ever tell that the server recovered.
const LEAST: f64 = 1.0;
/// Never more: one server's worth of connections, and well below the limit of open files.
const MOST: f64 = 48.0;
/// The pause of a server that does not say how long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause a server gets, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Refusals this close together are of the same moment and halve once.
const SAME_MOMENT: Duration = Duration::from_millis(100);

struct State {
    allowed: f64,
    under_way: usize,
    /// No request begins before.
    resume: Instant,
    lowered: Option<Instant>,
}

/// Lets requests begin.
pub struct Throttle {
    state: Mutex<State>,
    changed: Notify,
}

/// Leave for one request.
pub struct Permit<'a>(&'a Throttle);

impl Throttle {
    pub fn new() -> Self {
        let state = State { allowed: START, under_way: 0, resume: Instant::now(), lowered: None };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more request may begin.
    pub async fn acquire(&self) -> Permit<'_> {
        loop {
            // Enlisted before the state is looked at, or a permit given back in between is missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let resume = {
                let mut state = self.state();
                if state.resume > Instant::now() {
                    Some(state.resume)
                } else if (state.under_way as f64) < state.allowed.floor() {
                    state.under_way += 1;
                    return Permit(self);
                } else {
                    None
                }
            };
            match resume {
                Some(resume) => sleep_until(resume).await,
                None => changed.await,
            }
        }
    }

    /// The server answered a request as it should.
    pub fn succeeded(&self) {
        let mut state = self.state();
        state.allowed = (state.allowed + 1.0 / state.allowed).min(MOST);
    }

    /// The server asked for fewer requests, perhaps for so long.
    pub fn slow_down(&self, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        if state.lowered.is_none_or(|then| now.duration_since(then) > SAME_MOMENT) {
            state.allowed = (state.allowed / 2.0).max(LEAST);
            state.lowered = Some(now);
        }
        let pause = pause.unwrap_or(PAUSE).min(LONGEST_PAUSE);
        state.resume = state.resume.max(now + pause);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_refusal_halves_once_and_successes_raise_again() {
        let throttle = Throttle::new();
        throttle.slow_down(None);
        throttle.slow_down(None);
        assert_eq!(throttle.state().allowed, START / 2.0);
        (0..10_000).for_each(|_| throttle.succeeded());
        assert_eq!(throttle.state().allowed, MOST);
    }

    #[test]
    fn a_pause_holds_up_every_request() {
        runtime().block_on(async {
            let throttle = Throttle::new();
            drop(throttle.acquire().await);
            throttle.slow_down(Some(Duration::from_millis(50)));
            let begin = Instant::now();
            drop(throttle.acquire().await);
            assert!(begin.elapsed() >= Duration::from_millis(45));
        });
    }

    #[test]
    fn no_more_are_under_way_than_allowed() {
        runtime().block_on(async {
            let throttle = Throttle::new();
            let mut held = Vec::new();
            for _ in 0..START as usize {
                held.push(throttle.acquire().await);
            }
            let more = tokio::time::timeout(Duration::from_millis(20), throttle.acquire());
            assert!(more.await.is_err());
            held.pop();
            assert!(tokio::time::timeout(Duration::from_secs(5), throttle.acquire()).await.is_ok());
        });
    }
}
