//! Running a list of operations, and finding the fewest that still go wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::op::Op;
use crate::world::{Fault, Tally, World};

/// How long to look for fewer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the operations in a fresh world. What went wrong, and at which of them.
pub fn run(mut world: World, ops: &[Op]) -> Result<Tally, (usize, Fault)> {
    for (at, op) in ops.iter().enumerate() {
        guarded(|| world.step(op)).map_err(|fault| (at, format!("{op}: {fault}")))?;
    }
    guarded(|| world.end()).map_err(|fault| (ops.len(), format!("at the end: {fault}")))?;
    Ok(world.tally)
}

fn guarded(act: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Leaves out what is not needed for something to go wrong: halves first, then ever smaller parts.
pub fn shrink(make: &dyn Fn() -> World, ops: &[Op]) -> (Vec<Op>, Fault) {
    let begun = Instant::now();
    let (mut ops, mut fault) = (ops.to_vec(), String::from("it does not go wrong every time"));
    let mut part = ops.len().div_ceil(2).max(1);
    loop {
        let (mut at, mut fewer) = (0, false);
        while at < ops.len() && begun.elapsed() < PATIENCE {
            let end = (at + part).min(ops.len());
            let candidate = [&ops[..at], &ops[end..]].concat();
            match run(make(), &candidate) {
                Err((failed, found)) => {
                    fault = found;
                    ops = candidate[..candidate.len().min(failed + 1)].to_vec();
                    fewer = true;
                }
                Ok(_) => at = end,
            }
        }
        if begun.elapsed() >= PATIENCE || (part == 1 && !fewer) {
            return (ops, fault);
        }
        part = part.div_ceil(2).max(1);
    }
}

/// The operations as they are read again from `GRANARY_OPS`.
pub fn text(ops: &[Op]) -> String {
    ops.iter().map(Op::to_string).collect::<Vec<_>>().join(" ")
}
