//! Turns: how many uploads are taken in at a time, in all and of one subject, so that whoever holds
//! their turns for long keeps nobody else out; how many answers of `sync` are worked on,
//! and how many of those for which the whole store is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// Uploads that are taken in at the same time; more wait. Each may hold some 10 MB (a decoder's
/// window, chunks in flight), and a few are enough to keep the cores busy while slow clients send.
const IN_ALL: usize = 16;
/// Of these, one subject's.
const OF_ONE: usize = 8;
/// Answers of `sync` that are worked on at the same time; more wait. Each may hold a tree twice, and
/// those may take 96 MiB; the work is the processor's, so more would not be faster. A client that
/// reads slowly keeps nobody waiting: only putting the next piece together is work.
const SYNCS: usize = 4;
/// Answers about what paths take of the store that are worked on at the same time; more wait. Each
/// reads every tree of the store, and holds what it counts in memory.
const WEIGHINGS: usize = 1;
/// Who has waited that long is told to come again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Subjects that are remembered before those without turns are forgotten.
const REMEMBERED: usize = 1024;

/// Hands out turns.
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    subjects: Mutex<HashMap<String, Arc<Semaphore>>>,
    syncs: Arc<Semaphore>,
    weighings: Arc<Semaphore>,
}

/// A turn, for as long as it is held.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self {
            all: semaphore(IN_ALL),
            subjects: Mutex::default(),
            syncs: semaphore(SYNCS),
            weighings: semaphore(WEIGHINGS),
        }
    }

    /// Waits until an answer of `sync` may be worked on.
    pub(crate) async fn sync(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.syncs.clone().acquire_owned().await.map_err(|_| ApiError::Internal)
    }

    /// Waits until it may be found out what paths take of the store.
    pub(crate) async fn weighing(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        match tokio::time::timeout(PATIENCE, self.weighings.clone().acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| ApiError::Internal),
            Err(_) => Err(ApiError::Busy),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self, subject: &str) -> Result<Turn, ApiError> {
        let own = self.of(subject);
        let both = async {
            // The own one first: who waits for it holds nobody up.
            let own = own.acquire_owned().await;
            let all = self.all.clone().acquire_owned().await;
            own.and_then(|own| all.map(|all| Turn { _own: own, _all: all }))
        };
        match tokio::time::timeout(PATIENCE, both).await {
            Ok(turn) => turn.map_err(|_| ApiError::Internal),
            Err(_) => Err(ApiError::Busy),
        }
    }

    fn of(&self, subject: &str) -> Arc<Semaphore> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() >= REMEMBERED {
            // A turn, and whoever waits for one, shares the semaphore.
            subjects.retain(|_, own| Arc::strong_count(own) > 1);
        }
        let own = subjects.entry(subject.to_owned());
        own.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_subject_cannot_hold_every_turn() {
        let turns = Turns::new();
        let mut held = Vec::new();
        for _ in 0..OF_ONE {
            held.push(turns.take("greedy").await.unwrap());
        }
        assert!(matches!(turns.take("greedy").await, Err(ApiError::Busy)));
        let other = turns.take("modest").await;
        assert!(other.is_ok());
        held.pop();
        assert!(turns.take("greedy").await.is_ok());
    }
}
