//! Several processes on one bucket and one database: each a store with a folder of its own.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use castore::bytes::{AppendPack, Durability, Listed, PackBackend, ReadPack, S3Packs};
use castore::index::PostgresIndex;
use castore::pack::PackId;
use castore::tree::Node;
use castore::{CommitError, Expected, Kind, Options, Store, StoreError, Transaction, Uploaded};
use granary_test_services::{KEY, Postgres, S3Server, SECRET};
use tempfile::TempDir;

/// What goes wrong when a pack of facts is stored.
#[derive(Default)]
struct Mishap {
    /// It is stored, and the writer never hears of it.
    unheard: AtomicBool,
    /// It is on its way for long.
    late: AtomicBool,
    underway: Mutex<Vec<(PackId, Vec<u8>)>>,
}

struct Bucket {
    packs: S3Packs,
    mishap: Arc<Mishap>,
}

impl PackBackend for Bucket {
    fn durability(&self) -> Durability {
        self.packs.durability()
    }
    fn list(&self) -> io::Result<Vec<Listed>> {
        self.packs.list()
    }
    fn open(&self, id: PackId, sealed: bool) -> io::Result<Arc<dyn ReadPack>> {
        self.packs.open(id, sealed)
    }
    fn create(&self, id: PackId) -> io::Result<Arc<dyn AppendPack>> {
        self.packs.create(id)
    }
    fn reopen(&self, id: PackId, len: u64) -> io::Result<Arc<dyn AppendPack>> {
        self.packs.reopen(id, len)
    }
    fn discard(&self, id: PackId) -> io::Result<()> {
        self.packs.discard(id)
    }
    fn remove(&self, id: PackId) -> io::Result<()> {
        self.packs.remove(id)
    }
    fn put(&self, id: PackId, pack: Vec<u8>) -> io::Result<()> {
        if self.mishap.late.swap(false, Ordering::Relaxed) {
            self.mishap.underway.lock().unwrap().push((id, pack));
            return Err(io::ErrorKind::NetworkDown.into());
        }
        self.packs.put(id, pack)?;
        match self.mishap.unheard.swap(false, Ordering::Relaxed) {
            true => Err(io::ErrorKind::NetworkDown.into()),
            false => Ok(()),
        }
    }
    fn stat(&self, id: PackId) -> io::Result<Option<u64>> {
        self.packs.stat(id)
    }
    fn note(&self, name: &str) -> io::Result<Option<String>> {
        self.packs.note(name)
    }
    fn set_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.packs.set_note(name, text)
    }
    fn tidy(&self, older_than: Duration) -> io::Result<u64> {
        self.packs.tidy(older_than)
    }
    fn check(&self) -> io::Result<()> {
        self.packs.check()
    }
}

/// A bucket and a server of databases.
struct Site {
    server: S3Server,
    postgres: Postgres,
    url: String,
    dir: TempDir,
    mishap: Arc<Mishap>,
}

impl Site {
    fn new() -> Self {
        let server = S3Server::start();
        let url = server.bucket("packs");
        let dir = tempfile::tempdir().unwrap();
        Self { server, postgres: Postgres::start(), url, dir, mishap: Arc::default() }
    }

    fn try_open(
        &self,
        name: &str,
        database: &str,
        rebuild: bool,
    ) -> Result<Arc<Store>, StoreError> {
        let dir = self.dir.path().join(name);
        let packs = self.packs(&dir.join("objects"));
        let bucket = Bucket { packs, mishap: self.mishap.clone() };
        let index = PostgresIndex::open(database).unwrap();
        let (packs, index) = (Some(Arc::new(bucket) as _), Some(Arc::new(index) as _));
        Store::open(&dir, Options { packs, index, rebuild, ..Options::new(&mut |_| ()) })
    }

    fn open(&self, name: &str) -> Arc<Store> {
        self.try_open(name, &self.postgres.url(), false).unwrap()
    }

    fn packs(&self, dir: &Path) -> S3Packs {
        S3Packs::open_with_key(self.url.parse().unwrap(), dir, 1 << 28, KEY, SECRET).unwrap()
    }

    /// What was on its way all the time arrives.
    fn arrive(&self) {
        let packs = self.packs(&self.dir.path().join("late"));
        for (id, pack) in self.mishap.underway.lock().unwrap().drain(..) {
            packs.put(id, pack).unwrap();
        }
    }

    /// A store whose index was made anew of the bucket alone.
    fn remade(&self) -> Arc<Store> {
        let database = self.postgres.database("anew");
        self.try_open("anew", &database, true).unwrap()
    }

    fn objects(&self) -> usize {
        self.packs(&self.dir.path().join("count")).list().unwrap().len()
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A tree that is one file.
fn upload(store: &Arc<Store>, contents: &[u8]) -> Uploaded {
    let mut upload = store.upload().unwrap();
    upload.start_file(b"", false, contents.len() as u64).unwrap();
    upload.write(contents).unwrap();
    upload.finish().unwrap()
}

fn contents(store: &Arc<Store>, tree: &castore::Digest) -> Vec<u8> {
    let tree = store.tree(tree).unwrap();
    let Node::File { digest, size, .. } = tree.root() else { panic!("a file") };
    let (mut reader, mut out) = (store.reader().unwrap(), Vec::new());
    for chunk in store.chunks_of(&tree, digest, *size).unwrap() {
        reader.append_chunk(&chunk, &mut out).unwrap();
    }
    out
}

fn put(store: &Store, key: &[u8], value: &[u8]) -> Result<u64, CommitError> {
    let mut transaction = Transaction::default();
    transaction.put(key.to_vec(), value.to_vec(), Expected::Anything);
    store.commit(transaction)
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.fact(key).unwrap().map(|fact| fact.value)
}

#[test]
fn what_one_member_committed_every_member_reads() {
    let site = Site::new();
    let (one, other) = (site.open("one"), site.open("other"));
    let file = noise(1, 3_000_000);
    let uploaded = upload(&one, &file);
    put(&one, b"tree", uploaded.tree.as_bytes()).unwrap();
    assert_eq!(value(&other, b"tree").as_deref(), Some(&uploaded.tree.as_bytes()[..]));
    assert_eq!(contents(&other, &uploaded.tree), file);
    assert_eq!(site.objects(), 2, "a pack of chunks and one of facts");
    // And finds it again when it comes back, without a look at the bucket's list.
    drop(other);
    assert_eq!(contents(&site.open("other"), &uploaded.tree), file);
}

#[test]
fn what_one_member_holds_back_is_there_once_another_asks_for_it() {
    let site = Site::new();
    let (one, other) = (site.open("one"), site.open("other"));
    let file = noise(2, 3_000_000);
    let uploaded = upload(&one, &file);
    other.catch_up().unwrap();
    assert_eq!(other.locate(Kind::Tree, &uploaded.tree).unwrap(), None);
    assert_eq!(site.objects(), 0, "nobody has asked");
    other.gather().unwrap();
    assert!(other.locate(Kind::Tree, &uploaded.tree).unwrap().is_some());
    assert_eq!(contents(&other, &uploaded.tree), file);
}

#[test]
fn members_that_race_for_a_key_take_turns_and_a_rebuild_sees_the_same() {
    let site = Site::new();
    let stores = [site.open("one"), site.open("other")];
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| {
                for _ in 0..15 {
                    loop {
                        let before = store.fact(b"count").unwrap();
                        let number = before.as_ref().map_or(0, |fact| fact.value[0]) + 1;
                        let expected = Expected::as_read(before.as_ref());
                        let mut transaction = Transaction::default();
                        transaction.put(b"count".to_vec(), vec![number], expected);
                        match store.commit(transaction) {
                            Ok(_) => break,
                            Err(CommitError::Conflict) => continue,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(value(&stores[0], b"count"), Some(vec![30]));
    let fact = stores[1].fact(b"count").unwrap();
    assert_eq!(site.remade().fact(b"count").unwrap(), fact);
}

#[test]
fn a_change_that_was_stored_by_a_writer_that_died_is_finished_by_the_next() {
    let site = Site::new();
    let (one, other) = (site.open("one"), site.open("other"));
    site.mishap.unheard.store(true, Ordering::Relaxed);
    put(&one, b"a", b"1").unwrap_err();
    assert_eq!(value(&other, b"a"), None);
    put(&other, b"b", b"2").unwrap();
    assert_eq!(value(&one, b"a"), Some(b"1".to_vec()));
    let remade = site.remade();
    for key in [b"a", b"b"] {
        assert_eq!(remade.fact(key).unwrap(), one.fact(key).unwrap());
    }
}

#[test]
fn a_change_that_arrives_after_others_went_on_counts_for_nothing() {
    let site = Site::new();
    let (one, other) = (site.open("one"), site.open("other"));
    put(&one, b"key", b"before").unwrap();
    site.mishap.late.store(true, Ordering::Relaxed);
    put(&one, b"key", b"late").unwrap_err();
    let before = other.fact(b"key").unwrap();
    let mut transaction = Transaction::default();
    transaction.put(b"key".to_vec(), b"after".to_vec(), Expected::as_read(before.as_ref()));
    other.commit(transaction).unwrap();
    site.arrive();
    put(&one, b"another", b"").unwrap();
    assert_eq!(value(&one, b"key"), Some(b"after".to_vec()));
    let fact = one.fact(b"key").unwrap();
    assert_eq!(site.remade().fact(b"key").unwrap(), fact);
}

#[test]
fn packs_of_another_index_are_taken_over_only_when_that_is_asked_for() {
    let site = Site::new();
    let one = site.open("one");
    put(&one, b"key", b"value").unwrap();
    drop(one);
    let empty = site.postgres.database("empty");
    let refused = site.try_open("one", &empty, false);
    assert!(matches!(refused, Err(StoreError::ForeignIndex)));
    let taken = site.try_open("one", &empty, true).unwrap();
    assert_eq!(value(&taken, b"key"), Some(b"value".to_vec()));
    drop(taken);
    assert!(matches!(
        site.try_open("one", &site.postgres.url(), false),
        Err(StoreError::ForeignIndex)
    ));
}

#[test]
fn an_index_in_use_is_not_made_anew_under_its_users() {
    let site = Site::new();
    let one = site.open("one");
    let refused = site.try_open("other", &site.postgres.url(), true);
    assert!(matches!(refused, Err(StoreError::InUse)));
    put(&one, b"key", b"value").unwrap();
}

#[test]
fn a_bucket_that_was_away_is_used_again_when_it_is_back() {
    let mut site = Site::new();
    let one = site.open("one");
    put(&one, b"before", b"").unwrap();
    site.server.stop();
    put(&one, b"meanwhile", b"").unwrap_err();
    site.server.start_again();
    put(&one, b"after", b"").unwrap();
    assert!(value(&one, b"after").is_some());
}
