//! One fetch under way, and those who wait for pages of it.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::error::{Failure, S3Error};

/// What came of a fetch so far.
#[derive(Default)]
struct State {
    pages: HashMap<u32, Bytes>,
    ended: Option<Result<(), S3Error>>,
}

/// A fetch that any number of readers share.
#[derive(Default)]
pub struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page that came already.
    pub fn ready(&self, page: u32) -> Option<Bytes> {
        self.state().pages.get(&page).cloned()
    }

    /// Waits for a page. `None`: the pack ends before it.
    pub fn wait(&self, page: u32) -> Result<Option<Bytes>, S3Error> {
        let mut state = self.state();
        loop {
            if let Some(bytes) = state.pages.get(&page) {
                return Ok(Some(bytes.clone()));
            }
            if let Some(ended) = &state.ended {
                return ended.clone().map(|()| None);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a page to those who wait for it.
    pub fn publish(&self, page: u32, bytes: Bytes) {
        self.state().pages.insert(page, bytes);
        self.changed.notify_all();
    }

    /// No more pages come.
    pub fn end(&self, how: Result<(), S3Error>) {
        let mut state = self.state();
        state.ended.get_or_insert(how);
        drop(state);
        self.changed.notify_all();
    }

    /// No more pages come, because the fetch was dropped; nothing happens if it had ended.
    pub fn abandon(&self, object: &str) {
        let failure = Failure::last("the store was closed meanwhile");
        self.end(Err(S3Error::new("read", object.to_owned(), 1, failure)));
    }
}
