//! Single flight: what many ask for at once is done once, and goes on when those who asked give up.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

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
        let (done, pending) = oneshot::channel();
        let pending = pending.map(Result::ok).boxed().shared();
        running.insert(key, pending.clone());
        drop(running);
        // It may be dropped on the spot by a runtime that is ending: the lock is not held here.
        let (landing, work) = (Landing { flights: self.clone(), key }, begin());
        tokio::spawn(async move {
            let value = work.await;
            drop(landing);
            // Those who asked may have given up.
            let _ = done.send(value);
        });
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn many_ask_and_it_is_done_once_and_then_again() {
        let (flights, begun) = (Flights::<u32, u32>::new(), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let begun = begun.clone();
            flights.join(7, || async move {
                tokio::task::yield_now().await;
                begun.fetch_add(1, Ordering::Relaxed)
            })
        };
        assert_eq!(join_all((0..100).map(|_| ask())).await, [Some(0); 100]);
        assert_eq!(ask().await, Some(1), "what has landed does not fly");
    }

    #[tokio::test]
    async fn what_is_asked_for_goes_on_when_those_who_asked_give_up() {
        let flights = Flights::<u32, u32>::new();
        let (go, wait) = oneshot::channel::<()>();
        drop(flights.join(7, || async move { wait.await.map_or(0, |()| 1) }));
        go.send(()).unwrap();
        let again = flights.join(7, || async { 2 });
        assert_eq!(again.await, Some(1));
    }

    #[tokio::test]
    async fn a_panic_is_told_and_does_not_stay() {
        let flights = Flights::<u32, u32>::new();
        assert_eq!(flights.join(7, || async { panic!("as it should") }).await, None);
        assert_eq!(flights.join(7, || async { 1 }).await, Some(1));
    }

    #[test]
    fn a_runtime_that_has_ended_answers_nothing_and_hangs_nobody() {
        let flights = Flights::<u32, u32>::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _inside = handle.enter();
        assert_eq!(
            futures_util::FutureExt::now_or_never(flights.join(7, || async { 1 })),
            Some(None)
        );
    }
}
