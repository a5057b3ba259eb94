//! The threads that drive connections, and how a caller waits for what they bring.
//!
//! They are the index's own, so it works the same from a program without a runtime, from a thread
//! that may block, and, should it come to that, from one that should not.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::runtime::{Builder, Runtime};

use super::error::Trouble;

/// They move bytes and hold no lock, so two keep any number of connections busy.
const COUNT: usize = 2;

/// A runtime that can be dropped on any thread.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> Result<Self, Trouble> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(COUNT).thread_name("granary-postgres").enable_all();
        Ok(Self(Some(builder.build().map_err(Trouble::Threads)?)))
    }

    /// Runs `future` here, on the calling thread; its connections and clocks are the runtime's.
    ///
    /// Not [`Runtime::block_on`], which panics on a thread of another runtime.
    pub(super) fn wait<T, E: From<Trouble>>(
        &self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(runtime) = &self.0 else {
            return Err(Trouble::Threads(io::Error::other("they have ended")).into());
        };
        let _entered = runtime.enter();
        // A caller's own task may have used up its share, which would keep this from ever being
        // ready.
        let mut future = pin!(tokio::task::unconstrained(future));
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
