//! Garbage collection against a model: uploads, pushes, removals, every step of the collector, and crashes,
//! in random order. Whatever the order, what was committed is there to the last byte.
//!
//! `GRANARY_SEED` repeats a run, `GRANARY_STEPS` makes it longer, `GRANARY_RUNS` does more of them, each
//! with the next seed. A run that goes wrong is made shorter, and printed so that `GRANARY_OPS` repeats it
//! (with the same `GRANARY_SEED`, which decides on the size of packs, too). Names of packs are always random,
//! so one run in many may go another way than the one before.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "gc_model/ops.rs"]
mod ops;
#[path = "gc_model/pool.rs"]
mod pool;
#[path = "gc_model/shrink.rs"]
mod shrink;
#[path = "gc_model/site.rs"]
mod site;
mod stores;
#[path = "gc_model/world/mod.rs"]
mod world;

use std::cell::Cell;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use ops::{Dice, Op};
use site::{Servers, Site};

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// So many runs of so many steps, each in a place of its own, which is made for a size of packs.
fn runs(count: u64, steps: usize, make: &dyn Fn(u64) -> Site) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let first = setting("GRANARY_SEED").unwrap_or(now);
    let steps = setting("GRANARY_STEPS").unwrap_or(steps);
    let count = if std::env::var_os("GRANARY_OPS").is_some() { 1 } else { count };
    for seed in first..first + setting("GRANARY_RUNS").unwrap_or(count) {
        let mut dice = Dice(seed);
        let target = 60_000 + dice.below(240_000);
        let ops = match std::env::var("GRANARY_OPS") {
            Ok(text) => parse(&text),
            Err(_) => dice.ops(steps),
        };
        let make = || make(target);
        match shrink::run(&make, &ops, false) {
            Ok(tally) => println!("seed {seed}, packs of {target}: {tally:?}"),
            Err((at, fault)) => {
                println!("seed {seed}, packs of {target}, step {at}: {fault}");
                let (ops, again) = shrink::shrink(&make, &ops[..ops.len().min(at + 1)]);
                let text = shrink::text(&ops);
                panic!("{fault}\n{again}\nGRANARY_SEED={seed} GRANARY_OPS='{text}'");
            }
        }
    }
}

fn parse(text: &str) -> Vec<Op> {
    text.split_whitespace().map(|op| op.parse().unwrap()).collect()
}

/// One list of operations, which went wrong once.
fn replay(site: impl Fn() -> Site, text: &str) {
    let done = shrink::run(&site, &parse(text), true);
    done.unwrap_or_else(|(at, fault)| panic!("step {at}: {fault}"));
}

#[test]
fn who_looks_at_the_epoch_alone_builds_on_nothing_that_is_gone() {
    let servers = Servers::start(true);
    let text = "begin@0:0,0 file@0:0,5 finish@0:0,0 commit@0:0,1 keepup@1:0,0 remove@0:1,0 seal@0:0,0 \
                live@0:0,0 markall@0:0,0 condemn@0:0,0 keepup@1:0,0 live@0:0,0 markall@0:0,0 \
                sweep@0:1,1 begin@0:0,0 file@0:0,6 finish@0:0,0 commit@0:0,2 remove@0:2,0 \
                seal@0:0,0 live@0:0,0 markall@0:0,0 condemn@0:0,0 glance@1:0,0 begin@1:0,0 \
                file@1:0,5 finish@1:0,0 commit@1:0,3";
    replay(|| servers.site(0, 100_000), text);
}

#[test]
fn an_upload_to_a_process_that_has_not_kept_up_succeeds() {
    let servers = Servers::start(true);
    let text = "begin@0:0,0 file@0:0,5 finish@0:0,0 commit@0:0,1 remove@0:1,0 live@0:0,0 \
                markall@0:0,0 condemn@0:0,0 live@0:0,0 markall@0:0,0 sweep@0:1,1 begin@1:0,0 \
                file@1:0,5 finish@1:0,0 commit@1:0,3";
    replay(|| servers.site(0, 100_000), text);
}

#[test]
fn whatever_happens_what_was_committed_is_there() {
    runs(4, 3000, &|target| Site::folder(target));
}

#[test]
fn whatever_two_processes_do_what_was_committed_is_there() {
    let (servers, number) = (Servers::start(true), Cell::new(0));
    runs(2, 300, &|target| {
        number.set(number.get() + 1);
        servers.site(number.get(), target)
    });
}

#[test]
fn whatever_happens_what_was_committed_is_there_in_a_bucket() {
    let (servers, number) = (Servers::start(false), Cell::new(0));
    runs(2, 1000, &|target| {
        number.set(number.get() + 1);
        servers.site(number.get(), target)
    });
}
