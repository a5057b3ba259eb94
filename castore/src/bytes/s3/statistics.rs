//! What was asked of the object store, counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Requests and bytes since the backend was opened. Each attempt of a request counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct S3Statistics { $($(#[$doc])* pub $name: u64,)* }

        /// The same while they grow.
        #[derive(Default)]
        pub struct Counters { $(pub $name: AtomicU64,)* }

        impl Counters {
            /// As they stand.
            pub fn snapshot(&self) -> S3Statistics {
                S3Statistics { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Objects put whole.
    puts,
    /// Parts of objects put.
    part_puts,
    /// Ranges of objects fetched.
    range_gets,
    /// Pages of lists.
    lists,
    /// Questions for an object's length.
    heads,
    /// Objects removed.
    deletes,
    /// Requests that were made again.
    retries,
    /// Answers that asked for fewer requests.
    throttled,
    /// Bytes of bodies fetched.
    bytes_in,
    /// Bytes of bodies sent.
    bytes_out,
    /// Reads, or parts of them in one page, that asked nobody.
    cache_hits,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts more.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
