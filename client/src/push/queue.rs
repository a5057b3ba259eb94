//! The chunks on their way: numbered, taken in order, acknowledged in any order.

use std::collections::{BTreeMap, VecDeque};

/// Things with sizes that wait to be taken, and what becomes of those that were.
pub(super) struct Queue<T> {
    waiting: VecDeque<(T, usize)>,
    /// Number of the first that waits.
    first: u64,
    /// Everything below is acknowledged.
    done: u64,
    /// Acknowledged ranges beyond that, by their start.
    islands: BTreeMap<u64, u64>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), first: 0, done: 0, islands: BTreeMap::new() }
    }
}

/// What was taken together.
pub(super) struct Taken<T> {
    pub items: Vec<T>,
    from: u64,
    to: u64,
}

impl<T> Taken<T> {
    /// The numbers, to acknowledge it by.
    pub fn numbers(&self) -> (u64, u64) {
        (self.from, self.to)
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, item: T, size: usize) {
        self.waiting.push_back((item, size));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number that the next one to be pushed gets: all that is here now lies below.
    pub fn end(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    /// Takes as many as have room in `limit`, at least one.
    pub fn take(&mut self, limit: usize) -> Taken<T> {
        let (mut items, mut room, from) = (Vec::new(), limit, self.first);
        while let Some((item, size)) = self.waiting.pop_front() {
            if !items.is_empty() && size > room {
                self.waiting.push_front((item, size));
                break;
            }
            room = room.saturating_sub(size);
            items.push(item);
        }
        self.first += items.len() as u64;
        Taken { items, from, to: self.first }
    }

    /// The range is done.
    pub fn acknowledge(&mut self, (from, to): (u64, u64)) {
        self.islands.insert(from, to);
        while let Some(to) = self.islands.remove(&self.done) {
            self.done = to;
        }
    }

    /// Everything below this number is done.
    pub fn done(&self) -> u64 {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_fits_and_done_is_what_has_no_gap_before_it() {
        let mut queue = Queue::default();
        for size in [4, 4, 4, 20, 1] {
            queue.push(size, size);
        }
        assert_eq!(queue.end(), 5);
        let first = queue.take(10);
        let second = queue.take(10);
        let third = queue.take(10);
        assert_eq!(
            (&first.items[..], &second.items[..], &third.items[..]),
            (&[4, 4][..], &[4][..], &[20][..])
        );
        queue.acknowledge(third.numbers());
        queue.acknowledge(second.numbers());
        assert_eq!(queue.done(), 0);
        queue.acknowledge(first.numbers());
        assert_eq!(queue.done(), 4);
        assert_eq!(queue.take(10).items, [1]);
        assert!(queue.is_empty());
    }
}
