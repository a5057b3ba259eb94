//! Garbage collection against a model: uploads, pushes, removals, every step of the collector, and crashes,
//! in random order. Whatever the order, what was committed is there to the last byte.
//!
//! How runs are repeated, and made longer: `model/run.rs`. The seed decides on the size of packs as well.
//! Names of packs are always random, so one run in many may go another way than the one before.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod model;
#[path = "gc_model/ops.rs"]
mod ops;
#[path = "gc_model/pool.rs"]
mod pool;
#[path = "gc_model/site.rs"]
mod site;
mod stores;
#[path = "gc_model/world/mod.rs"]
mod world;

use std::cell::Cell;

use model::op::Dice;
use model::run::{replay, runs};
use site::{Servers, Site};
use world::World;

/// The size at which packs are sealed.
fn target(seed: u64) -> u64 {
    60_000 + Dice(seed).below(240_000)
}

#[test]
fn who_looks_at_the_epoch_alone_builds_on_nothing_that_is_gone() {
    let servers = Servers::start(true);
    let text = "begin@0:0,0 file@0:0,5 finish@0:0,0 commit@0:0,1 keepup@1:0,0 remove@0:1,0 seal@0:0,0 \
                live@0:0,0 markall@0:0,0 condemn@0:0,0 keepup@1:0,0 live@0:0,0 markall@0:0,0 \
                sweep@0:1,1 begin@0:0,0 file@0:0,6 finish@0:0,0 commit@0:0,2 remove@0:2,0 \
                seal@0:0,0 live@0:0,0 markall@0:0,0 condemn@0:0,0 glance@1:0,0 begin@1:0,0 \
                file@1:0,5 finish@1:0,0 commit@1:0,3";
    replay(World::new(servers.site(0, 100_000), true), text);
}

#[test]
fn an_upload_to_a_process_that_has_not_kept_up_succeeds() {
    let servers = Servers::start(true);
    let text = "begin@0:0,0 file@0:0,5 finish@0:0,0 commit@0:0,1 remove@0:1,0 live@0:0,0 \
                markall@0:0,0 condemn@0:0,0 live@0:0,0 markall@0:0,0 sweep@0:1,1 begin@1:0,0 \
                file@1:0,5 finish@1:0,0 commit@1:0,3";
    replay(World::new(servers.site(0, 100_000), true), text);
}

#[test]
fn whatever_happens_what_was_committed_is_there() {
    runs(4, 3000, &|seed, careful| World::new(Site::folder(target(seed)), careful));
}

#[test]
fn whatever_two_processes_do_what_was_committed_is_there() {
    let (servers, number) = (Servers::start(true), Cell::new(0));
    runs(2, 300, &|seed, careful| {
        number.set(number.get() + 1);
        World::new(servers.site(number.get(), target(seed)), careful)
    });
}

#[test]
fn whatever_happens_what_was_committed_is_there_in_a_bucket() {
    let (servers, number) = (Servers::start(false), Cell::new(0));
    runs(2, 1000, &|seed, careful| {
        number.set(number.get() + 1);
        World::new(servers.site(number.get(), target(seed)), careful)
    });
}
