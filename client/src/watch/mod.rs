//! Watching: what becomes valid in the local store is pushed, sooner or later, whatever happens.
//!
//! Store paths go through a queue on disk ([`Queue`]). Whoever learns of a path adds it: the
//! [`StoreWatcher`], which follows the store, and Nix's post-build hook, which does nothing else.
//! One process at a time takes paths out, the [`Pusher`], and removes them once they are published.
//! So neither a server that is down nor a process that is killed loses a path; pushing one twice
//! costs a question that the server answers with "there already".

mod dir_events;
mod pause;
mod pusher;
mod queue;
mod seen;
mod store_watcher;
mod trouble;

pub use pusher::{Connect, Ended, Pusher, PusherOptions, Tally};
pub use queue::{Drain, Error as QueueError, FailedPath, Queue, queue_name};
pub use store_watcher::{StoreWatcher, Wants, WatchError, WatchOptions};
