//! Waiting for an answer as long as there is a server to give one.
//!
//! A connection says nothing while a statement waits for a lock, or while the server's machine is
//! dead, and the two have to be told apart: one may take minutes, the other must not.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::connect::Connector;
use super::error::{Failure, Trouble};

/// How long silence is taken for work before the server is tried.
const SILENCE: Duration = Duration::from_secs(5);

/// Beyond the server's own limit for a statement: the session is stuck, though the server is not.
pub(super) const STUCK: Duration = Duration::from_secs(75);

impl Connector {
    /// Waits for a statement for as long as the server takes connections, and `longest` at most.
    pub(super) async fn attended<T>(
        &self,
        longest: Option<Duration>,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        let mut statement = pin!(statement);
        let started = Instant::now();
        loop {
            if let Ok(answer) = timeout(SILENCE, statement.as_mut()).await {
                return answer.map_err(Failure::of_statement);
            }
            if let Some(longest) = longest.filter(|longest| started.elapsed() > *longest) {
                return Err(Failure::Late(Trouble::Late(longest)));
            }
            match self.session(None).await {
                // What it refuses, it refuses alive.
                Ok(_) | Err(Failure::Refused(_)) => {}
                Err(_) => return Err(Failure::Late(Trouble::Late(started.elapsed()))),
            }
        }
    }
}
