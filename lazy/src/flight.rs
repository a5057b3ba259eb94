//! Single flight: what many ask for at once is done once, and goes on when those who asked give up.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

/// The result of something that is being done.
pub(crate) type Pending<V> = Shared<BoxFuture<'static, Option<V>>>;

pub(crate) struct Flights<K, V> {
    running: Mutex<HashMap<K, Pending<V>>>,
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { running: Mutex::default() })
    }

    /// The result of what is being done for this key; it is begun if it is not. `None` when it
    /// panicked, or its runtime ended.
    pub fn join<F>(self: &Arc<Self>, key: K, begin: impl FnOnce() -> F) -> Pending<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = running.get(&key) {
            return pending.clone();
        }
        let landing = Landing { flights: self.clone(), key };
        let work = begin();
        let task = tokio::spawn(async move {
            let _landing = landing;
            work.await
        });
        let pending = task.map(Result::ok).boxed().shared();
        running.insert(key, pending.clone());
        pending
    }
}

/// Takes the key out, whatever became of the work.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
