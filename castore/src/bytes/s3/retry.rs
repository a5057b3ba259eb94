//! Asking again: the one place that decides when, how often and for how long.
//!
//! Exponential pauses with full jitter, so that the replicas of a server that was down do not come
//! back at the same moment. Each attempt has a limit of its own, by its size, and all attempts together
//! have a deadline: none begins after it.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::error::{Failure, S3Error, Verdict};
use super::statistics::{Counters, count};
use super::throttle::{Permit, Throttle};

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For reading, all attempts together. Somebody waits for it.
    pub reads: Duration,
    /// For writing, all attempts together. Failing costs an upload.
    pub writes: Duration,
    /// For the first byte of an answer, beyond what the request's own size takes.
    pub answer: Duration,
    /// For the next byte of a body.
    pub stall: Duration,
    /// Before the second attempt, at most. Doubled before each further one.
    pub first_pause: Duration,
    /// Between two attempts, at most.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            reads: Duration::from_secs(15),
            writes: Duration::from_secs(20),
            answer: Duration::from_secs(10),
            stall: Duration::from_secs(5),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
        }
    }
}

/// A slower line is taken for a broken one: 32 MiB, the largest body, within 64 s.
const LEAST_BYTES_PER_SECOND: u64 = 512 * 1024;
/// An answer to [`Budget::check`] has to come within seconds, whatever else goes on.
const CHECK: Duration = Duration::from_secs(5);

/// What a request may take.
#[derive(Clone, Copy)]
pub struct Budget {
    total: Duration,
    attempt: Duration,
    /// Whether it waits for its turn.
    queues: bool,
}

impl Patience {
    fn attempt(&self, bytes: u64) -> Duration {
        self.answer + Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND)
    }

    /// For a request whose answer has so many bytes.
    pub fn read(&self, bytes: u64) -> Budget {
        Budget { total: self.reads, attempt: self.attempt(bytes), queues: true }
    }

    /// For a request that sends so many bytes.
    pub fn write(&self, bytes: u64) -> Budget {
        Budget { total: self.writes, attempt: self.attempt(bytes), queues: true }
    }

    /// For a question whether the server is there. It overtakes everything.
    pub fn check(&self) -> Budget {
        Budget { total: CHECK / 2, attempt: CHECK / 2, queues: false }
    }
}

/// What all requests share.
pub struct Retry<'a> {
    pub patience: Patience,
    pub throttle: &'a Throttle,
    pub counters: &'a Counters,
}

/// The attempts of one request.
pub struct Attempts<'a> {
    retry: Retry<'a>,
    budget: Budget,
    operation: &'static str,
    object: String,
    begun: Instant,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(retry: Retry<'a>, budget: Budget, operation: &'static str, object: String) -> Self {
        Self { retry, budget, operation, object, begun: Instant::now(), made: 0 }
    }

    fn failed(&self, failure: Failure) -> S3Error {
        S3Error::new(self.operation, self.object.clone(), self.made, failure)
    }

    fn left(&self) -> Duration {
        self.budget.total.saturating_sub(self.begun.elapsed())
    }

    async fn turn(&self) -> Result<Option<Permit<'a>>, S3Error> {
        if !self.budget.queues {
            return Ok(None);
        }
        let waited = timeout(self.left(), self.retry.throttle.acquire()).await;
        waited.map(Some).map_err(|_| {
            self.failed(Failure::again("the server asks for fewer requests than there are"))
        })
    }

    /// Makes one attempt. `None`: it failed, and the next one may be made now.
    pub async fn attempt<T>(
        &mut self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, S3Error> {
        let permit = self.turn().await?;
        self.made += 1;
        let limit = self.budget.attempt;
        let outcome = timeout(limit, attempt).await.unwrap_or_else(|_| {
            Err(Failure::again(format!("no answer within {} s", limit.as_secs_f32())))
        });
        let failure = match outcome {
            Ok(value) => {
                self.retry.throttle.succeeded();
                return Ok(Some(value));
            }
            Err(failure) => failure,
        };
        match failure.verdict {
            Verdict::Final => return Err(self.failed(failure)),
            Verdict::Again => {}
            Verdict::Throttled(pause) => {
                count(&self.retry.counters.throttled);
                self.retry.throttle.slow_down(pause);
            }
        }
        drop(permit);
        let pause = self.pause();
        if pause >= self.left() {
            return Err(self.failed(failure));
        }
        let (operation, object, attempt) = (self.operation, &self.object, self.made);
        tracing::debug!(operation, object, attempt, ?pause, ?failure, "asking again");
        count(&self.retry.counters.retries);
        sleep(pause).await;
        Ok(None)
    }

    fn pause(&self) -> Duration {
        let Patience { first_pause, longest_pause, .. } = self.retry.patience;
        let doubled = first_pause.saturating_mul(1 << (self.made - 1).min(16));
        let mut random = [0; 4];
        // Without randomness the pause is the longest: late is better than all at once.
        let share = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        doubled.min(longest_pause).mul_f64(share)
    }
}
