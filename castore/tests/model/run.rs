//! Runs: from seeds, or of a list of operations.
//!
//! Without more, runs are the same every time. `GRANARY_SEED` begins with another (`GRANARY_SEED=$RANDOM`), or
//! repeats one, `GRANARY_STEPS` makes it longer, `GRANARY_RUNS` does more of them, each with the next seed. A run that goes wrong is made shorter, and printed so that `GRANARY_OPS` repeats it,
//! with the same `GRANARY_SEED`, which decides on more than the operations.

use std::str::FromStr;

use super::op::{Dice, Op};
use super::shrink;
use crate::world::World;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// So many runs of so many steps, each in a fresh world, which is made for a seed, and may be careful.
pub fn runs(count: u64, steps: usize, make: &dyn Fn(u64, bool) -> World) {
    let first = setting("GRANARY_SEED").unwrap_or(1);
    let steps = setting("GRANARY_STEPS").unwrap_or(steps);
    let count = if std::env::var_os("GRANARY_OPS").is_some() { 1 } else { count };
    for seed in first..first + setting("GRANARY_RUNS").unwrap_or(count) {
        let ops = match std::env::var("GRANARY_OPS") {
            Ok(text) => parse(&text),
            Err(_) => Dice(seed).ops(steps),
        };
        match shrink::run(make(seed, false), &ops) {
            Ok(tally) => println!("seed {seed}: {tally:?}"),
            Err((at, fault)) => {
                println!("seed {seed}, step {at}: {fault}");
                let careful = || make(seed, true);
                let (ops, again) = shrink::shrink(&careful, &ops[..ops.len().min(at + 1)]);
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
pub fn replay(world: World, text: &str) {
    let done = shrink::run(world, &parse(text));
    done.unwrap_or_else(|(at, fault)| panic!("step {at}: {fault}"));
}
