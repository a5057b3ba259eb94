//! Pauses between attempts that never end.

use std::time::Duration;

/// Pauses that double up to a bound. Each is between half of that and all of it, at random, so that
/// the watchers of a server that comes back do not come all at once.
#[derive(Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
    failed: u32,
}

impl Pauses {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failed: 0 }
    }

    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failed.min(20)).min(self.longest);
        self.failed = self.failed.saturating_add(1);
        // Where there is no randomness pauses are merely not spread.
        let random = getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX));
        bound.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew() {
        let second = Duration::from_secs(1);
        let mut pauses = Pauses::new(second, 60 * second);
        for bound in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = pauses.next();
            assert!(pause <= bound * second && pause * 2 >= bound * second, "{pause:?} of {bound}");
        }
        for _ in 0..100 {
            assert!(pauses.next() <= 60 * second);
        }
        pauses.reset();
        assert!(pauses.next() <= second);
    }
}
