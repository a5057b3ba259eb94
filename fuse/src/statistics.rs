//! What the mount was asked, and what it holds.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the mount was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
            /// Inodes that the kernel knows at the moment.
            pub inodes: u64,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: Counter,)*
        }

        impl Counters {
            pub fn read(&self, inodes: u64) -> Statistics {
                Statistics { $($name: self.$name.0.load(Ordering::Relaxed),)* inodes }
            }
        }
    };
}

statistics! {
    /// Names that were asked for.
    lookups,
    /// Times that attributes were asked for alone.
    attributes,
    /// Opens of files; those of a mount without passthrough cost no message but the first.
    opens,
    /// Closes of files, likewise.
    releases,
    /// Reads that reached the mount.
    reads,
    /// Bytes they were answered with.
    read_bytes,
    /// Pieces of directory listings.
    listings,
    /// Symlinks read.
    links,
    /// Extended attributes asked for.
    xattrs,
    /// Anything else that is answered.
    others,
    /// References to inodes that came back; they are not answered.
    forgets,
    /// Files whose bytes the kernel was given before it asked.
    pushed,
    /// Bytes of those.
    pushed_bytes,
}

impl Statistics {
    /// Messages that a program had to wait for.
    pub fn messages(&self) -> u64 {
        let Self { lookups, attributes, opens, releases, reads, listings, links, xattrs, .. } =
            self;
        lookups + attributes + opens + releases + reads + listings + links + xattrs + self.others
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn count(&self) {
        self.add(1);
    }
}
