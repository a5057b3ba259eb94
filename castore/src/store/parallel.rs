//! Work on many packs at once, for the sake of a store that is far away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use super::StoreError;

/// Packs that are worked on at once.
const THREADS: usize = 16;

/// Does `work` on every item, many at a time, and gives the results to `take` as they come. The
/// first error ends it.
pub(super) fn on_many<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, StoreError> + Sync,
    mut take: impl FnMut(&T, R) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let (results, done) = sync_channel(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(items.len()) {
            let (results, next, work) = (results.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more after an error.
                    if results.send((item, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        // Moved in, so that it is dropped with the first error, and who sends does not wait.
        let done = done;
        for (item, result) in &done {
            take(item, result?)?;
        }
        Ok(())
    })
}
