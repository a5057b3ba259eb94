//! What a cache must have, by what its clients were told, while some of them push paths and others
//! delete the same ones.
//!
//! A push and a deletion of one path at the same time may end either way. So a path counts as there when
//! a push was acknowledged during all of which nobody was deleting it, and until somebody begins to.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One path.
#[derive(Debug, Default, Clone)]
struct Entry {
    /// It is certain to be there.
    there: bool,
    /// No deletion can touch it.
    pinned: bool,
    /// Deletions under way.
    deletions: usize,
    /// Another number after everything that makes it uncertain.
    epoch: u64,
    /// When the last deletion ended.
    deleted: Option<Instant>,
}

/// What is known of some paths, by their numbers.
#[derive(Debug)]
pub struct Ledger(Mutex<Vec<Entry>>);

/// Something that somebody has begun to do with some paths.
#[derive(Debug)]
pub struct Begun {
    /// The paths, with the epoch of each, and whether it was there for certain.
    paths: Vec<(usize, u64, bool)>,
    /// Nobody was deleting any of them.
    calm: bool,
}

impl Ledger {
    /// So many paths, of which nothing is there.
    pub fn new(paths: usize) -> Self {
        Self(Mutex::new(vec![Entry::default(); paths]))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        look(&mut self.0.lock().expect("no client panicked"))
    }

    /// A push of these begins. A client that believes what is remembered elsewhere believes for so long
    /// that what was deleted is there: `memory`.
    pub fn begin_push(&self, paths: &[usize], memory: Duration) -> Begun {
        self.with(|all| Begun {
            calm: paths.iter().all(|&path| {
                let entry = &all[path];
                entry.deletions == 0 && entry.deleted.is_none_or(|when| when.elapsed() > memory)
            }),
            paths: paths.iter().map(|&path| (path, all[path].epoch, all[path].there)).collect(),
        })
    }

    /// A push was acknowledged, and if it was of a pin, that as well.
    pub fn pushed(&self, begun: &Begun, pinned: bool) {
        self.with(|all| {
            let same = |&(path, epoch, _): &(usize, u64, bool)| all[path].epoch == epoch;
            if !begun.calm || !begun.paths.iter().all(same) {
                return;
            }
            for (path, ..) in &begun.paths {
                all[*path].there = true;
                all[*path].pinned |= pinned;
            }
        });
    }

    /// The pin on these is about to go.
    pub fn begin_unpin(&self, paths: &[usize]) {
        self.with(|all| {
            for &path in paths {
                let entry = &mut all[path];
                entry.pinned = false;
                // A deletion that was to be refused need not be any more.
                entry.there &= entry.deletions == 0;
                entry.epoch += 1;
            }
        });
    }

    /// A deletion begins that may take these.
    pub fn begin_deletion(&self, paths: &[usize]) -> Begun {
        self.with(|all| {
            let calm = paths.iter().all(|&path| all[path].deletions == 0);
            let begin = |&path: &usize| {
                let entry = &mut all[path];
                let there = entry.there;
                entry.there &= entry.pinned;
                entry.deletions += 1;
                entry.epoch += 1;
                (path, entry.epoch, there)
            };
            Begun { paths: paths.iter().map(begin).collect(), calm }
        })
    }

    /// A deletion has ended, and took those that `took` says; `None` if nobody knows. The first path that
    /// it took although it was pinned.
    pub fn deleted(&self, begun: &Begun, took: Option<&dyn Fn(usize) -> bool>) -> Option<usize> {
        self.with(|all| {
            let mut wrong = None;
            for &(path, epoch, was_there) in &begun.paths {
                let entry = &mut all[path];
                let alone = begun.calm && entry.epoch == epoch;
                entry.deletions -= 1;
                entry.epoch += 1;
                match took {
                    Some(took) if !took(path) => entry.there |= was_there && alone,
                    Some(_) if entry.pinned => wrong = Some(path),
                    _ => entry.deleted = Some(Instant::now()),
                }
            }
            wrong
        })
    }

    /// Whether a path was there for certain when something began that is over now, and is still.
    pub fn was_there(&self, begun: &Begun) -> bool {
        let is = |all: &[Entry], &(path, epoch, there): &(usize, u64, bool)| {
            there && (all[path].pinned || all[path].epoch == epoch)
        };
        self.with(|all| begun.paths.iter().all(|path| is(all, path)))
    }

    /// Somebody begins to read a path.
    pub fn begin_read(&self, path: usize) -> Begun {
        self.begin_push(&[path], Duration::ZERO)
    }

    /// All that is there for certain.
    pub fn there(&self) -> Vec<usize> {
        self.with(|all| (0..all.len()).filter(|&path| all[path].there).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(ledger: &Ledger) {
        let begun = ledger.begin_push(&[0], Duration::ZERO);
        ledger.pushed(&begun, false);
    }

    #[test]
    fn what_was_pushed_is_there_until_somebody_begins_to_delete_it() {
        let ledger = Ledger::new(2);
        let reading = ledger.begin_read(0);
        push(&ledger);
        assert_eq!(ledger.there(), [0]);
        assert!(!ledger.was_there(&reading), "it was not when it began");
        let reading = ledger.begin_read(0);
        let deletion = ledger.begin_deletion(&[0]);
        assert!(ledger.there().is_empty() && !ledger.was_there(&reading));
        push(&ledger);
        assert!(ledger.there().is_empty(), "it may go in the very next moment");
        assert_eq!(ledger.deleted(&deletion, Some(&|_| true)), None);
        let late = ledger.begin_push(&[0], Duration::from_secs(60));
        ledger.pushed(&late, false);
        assert!(ledger.there().is_empty(), "it may have been believed to be there");
        push(&ledger);
        assert_eq!(ledger.there(), [0]);
        let refused = ledger.begin_deletion(&[0]);
        ledger.deleted(&refused, Some(&|_| false));
        assert_eq!(ledger.there(), [0]);
        let unknown = ledger.begin_deletion(&[0]);
        ledger.deleted(&unknown, None);
        assert!(ledger.there().is_empty());
    }

    #[test]
    fn what_is_pinned_is_there_whoever_deletes_it() {
        let ledger = Ledger::new(1);
        let pin = ledger.begin_push(&[0], Duration::ZERO);
        ledger.pushed(&pin, true);
        let reading = ledger.begin_read(0);
        let deletion = ledger.begin_deletion(&[0]);
        assert!(ledger.was_there(&reading));
        assert_eq!(ledger.deleted(&deletion, Some(&|_| true)), Some(0));
        ledger.deleted(&ledger.begin_deletion(&[0]), Some(&|_| false));
        assert_eq!(ledger.there(), [0]);
        let deletion = ledger.begin_deletion(&[0]);
        ledger.begin_unpin(&[0]);
        assert!(ledger.there().is_empty(), "the deletion may still come to it");
        ledger.deleted(&deletion, Some(&|_| false));
        assert!(ledger.there().is_empty());
    }
}
