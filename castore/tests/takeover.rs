//! What a writer of facts left unfinished is ended by another one, once.

#![allow(clippy::unwrap_used, missing_docs)]

mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use castore::{Clock, CommitError, Expected, Options, Store, Transaction};
use stores::faults::{Call, Folder, Shaky, changes, open};
use stores::put;
use tempfile::TempDir;

/// Stores on one bucket and one index, without a lock between them: as when each holds the others for
/// dead.
struct Site {
    dir: TempDir,
    index: Arc<Shaky>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Shaky::open(&dir.path().join("index"));
        Self { dir, index }
    }

    fn packs(&self) -> Arc<Folder> {
        Folder::bucket(&self.dir.path().join("packs"))
    }

    fn open(&self, name: &str, packs: &Arc<Folder>) -> Arc<Store> {
        open(&self.dir.path().join(name), packs, &self.index, Clock::default(), 1 << 20)
    }

    /// A transaction is stored, and its writer dies before the index shows it.
    fn die(&self, store: &Store, transaction: Transaction) {
        self.index.refuse(|batch| changes(batch, b"f"));
        store.commit(transaction).unwrap_err();
        self.index.mend();
    }

    /// A store whose index was made anew of the packs alone.
    fn remade(&self) -> Arc<Store> {
        let index = Shaky::open(&self.dir.path().join("anew"));
        let mut progress = |_| {};
        let options = Options {
            packs: Some(self.packs()),
            index: Some(index),
            rebuild: true,
            ..Options::new(&mut progress)
        };
        Store::open(&self.dir.path().join("remade"), options).unwrap()
    }
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.fact(key).unwrap().map(|fact| fact.value)
}

fn setting(key: &[u8], value: &[u8]) -> Transaction {
    let mut transaction = Transaction::default();
    transaction.put(key.to_vec(), value.to_vec(), Expected::Anything);
    transaction
}

/// What `meanwhile` does happens when `store` has begun to end what somebody left.
fn pause(packs: &Folder, meanwhile: impl Fn() + Send + Sync + 'static) {
    let paused = AtomicBool::new(false);
    packs.fault(move |call, _| {
        if call == Call::Stat && !paused.swap(true, Ordering::Relaxed) {
            meanwhile();
        }
        Ok(())
    });
}

#[test]
fn who_was_cut_off_while_taking_over_does_not_undo_what_came_after() {
    let site = Site::new();
    let packs = [site.packs(), site.packs(), site.packs()];
    let [one, slow, other] = [0, 1, 2].map(|at| site.open(&at.to_string(), &packs[at]));
    put(&one, b"key", b"before");
    site.die(&one, setting(b"key", b"left"));
    pause(&packs[1], move || {
        put(&other, b"key", b"after");
        put(&other, b"key", b"last");
    });
    put(&slow, b"another", b"");
    assert_eq!(value(&slow, b"key").unwrap(), b"last");
    assert_eq!(slow.fact(b"another").unwrap().unwrap().sequence, 5);
    assert_eq!(slow.last_sequence().unwrap(), 5);
    let remade = site.remade();
    for key in [&b"key"[..], b"another"] {
        assert_eq!(remade.fact(key).unwrap(), slow.fact(key).unwrap());
    }
    assert_eq!(remade.last_sequence().unwrap(), 5);
}

#[test]
fn who_watches_a_topic_learns_of_a_change_that_was_taken_over() {
    let site = Site::new();
    let packs = site.packs();
    let (one, other) = (site.open("one", &packs), site.open("other", &packs));
    let mut touching = setting(b"a", b"");
    touching.touch("before");
    one.commit(touching).unwrap();
    let before = ["before", "never"].map(|topic| other.last_touched(topic).unwrap());
    let mut touching = setting(b"key", b"left");
    touching.touch("before");
    touching.touch("never");
    site.die(&one, touching);
    let building = || {
        let mut building = setting(b"b", b"");
        building.untouched("before", before[0]);
        building.untouched("never", before[1]);
        building
    };
    assert!(matches!(other.commit(building()), Err(CommitError::Conflict)));
    assert_eq!(value(&other, b"key").unwrap(), b"left");
    for (topic, before) in ["before", "never"].into_iter().zip(before) {
        assert!(other.last_touched(topic).unwrap() > before);
    }
    // Whoever looks again goes on.
    let mut again = setting(b"b", b"");
    again.untouched("before", other.last_touched("before").unwrap());
    other.commit(again).unwrap();
    assert_eq!(one.last_touched("before").unwrap(), other.last_touched("before").unwrap());
}
