//! What the queue promises.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use super::*;

const CACHE: &str = "https://cache.example.org/main";

fn path(number: usize) -> StorePath {
    let mut hash = [0; 20];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    StorePath::new(hash.into(), "x").unwrap()
}

fn paths(numbers: std::ops::Range<usize>) -> Vec<StorePath> {
    numbers.map(path).collect()
}

fn queue() -> (tempfile::TempDir, Queue) {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(&dir.path().join("a/queue"), CACHE).unwrap();
    (dir, queue)
}

fn count(queue: &Queue, folder: &str) -> usize {
    fs::read_dir(queue.dir().join(folder)).unwrap().count()
}

fn take_all(drain: &Drain) -> Vec<StorePath> {
    let mut all = Vec::new();
    loop {
        let batch = drain.take(100).unwrap();
        if batch.paths.is_empty() {
            return all;
        }
        all.extend(batch.paths.clone());
        drain.settle(batch, &[]).unwrap();
    }
}

#[test]
fn what_was_added_is_taken_out_oldest_first_and_once() {
    let (_dir, queue) = queue();
    queue.add(&[path(2), path(1), path(2)]).unwrap();
    queue.add(&[path(3), path(1)]).unwrap();
    queue.add(&[]).unwrap();
    let drain = queue.drain().unwrap();
    let batch = drain.take(100).unwrap();
    assert_eq!(batch.paths, [path(2), path(1), path(3)]);
    drain.settle(batch, &[]).unwrap();
    assert!(drain.take(100).unwrap().paths.is_empty());
    assert_eq!((count(&queue, "new"), count(&queue, "tmp"), count(&queue, "failed")), (0, 0, 0));
}

#[test]
fn a_batch_that_was_not_settled_is_there_after_a_restart() {
    let (_dir, queue) = queue();
    queue.add(&paths(0..3)).unwrap();
    let drain = queue.drain().unwrap();
    assert_eq!(drain.take(100).unwrap().paths, paths(0..3));
    drop(drain);
    let again = Queue::open(queue.dir(), CACHE).unwrap();
    assert_eq!(take_all(&again.drain().unwrap()), paths(0..3));
}

#[test]
fn what_is_added_while_a_batch_is_pushed_stays() {
    let (_dir, queue) = queue();
    queue.add(&paths(0..2)).unwrap();
    let drain = queue.drain().unwrap();
    let batch = drain.take(100).unwrap();
    queue.add(&paths(1..3)).unwrap();
    drain.settle(batch, &[]).unwrap();
    assert_eq!(take_all(&drain), paths(1..3));
}

#[test]
fn batches_are_bounded_however_much_waits() {
    let (_dir, queue) = queue();
    queue.add(&paths(0..2500)).unwrap();
    assert_eq!(count(&queue, "new"), 3);
    let drain = queue.drain().unwrap();
    assert_eq!(drain.take(10).unwrap().paths, paths(0..1000));
    assert_eq!(queue.waiting(5).unwrap(), (paths(0..5), true));
    assert_eq!(queue.waiting(2500).unwrap(), (paths(0..2500), false));
    assert_eq!(take_all(&drain), paths(0..2500));
}

#[test]
fn many_add_at_once_while_one_takes_out() {
    let (_dir, queue) = queue();
    let drain = queue.drain().unwrap();
    let mut taken = std::thread::scope(|scope| {
        let adders: Vec<_> = (0..4)
            .map(|adder| {
                let queue = Queue::open(queue.dir(), CACHE).unwrap();
                scope.spawn(move || {
                    for number in 0..10 {
                        queue.add(&[path(adder * 100 + number)]).unwrap();
                    }
                })
            })
            .collect();
        let mut taken = Vec::new();
        while !adders.iter().all(|adder| adder.is_finished()) {
            taken.extend(take_all(&drain));
        }
        taken
    });
    taken.extend(take_all(&drain));
    taken.sort();
    let mut expected: Vec<_> =
        (0..4).flat_map(|adder| paths(adder * 100..adder * 100 + 10)).collect();
    expected.sort();
    assert_eq!(taken, expected);
}

#[test]
fn an_adder_killed_at_any_step_adds_all_or_nothing() {
    let (_dir, queue) = queue();
    let text = entry::encode(&paths(0..2));
    // Killed while it wrote, and before it moved what it wrote.
    fs::write(queue.dir().join("tmp/1-1-000000"), &text[..20]).unwrap();
    fs::write(queue.dir().join("tmp/1-1-000001"), &text).unwrap();
    assert!(queue.drain().unwrap().take(9).unwrap().paths.is_empty());
    // Killed after it moved it and before it synced the move.
    fs::rename(queue.dir().join("tmp/1-1-000001"), queue.dir().join("new/1-1-000001")).unwrap();
    assert_eq!(take_all(&queue.drain().unwrap()), paths(0..2));
    // A file being written stays; one that nobody writes any more goes.
    assert_eq!(count(&queue, "tmp"), 1);
    let old = SystemTime::now() - std::time::Duration::from_secs(2 * STALE);
    let left = File::options().append(true).open(queue.dir().join("tmp/1-1-000000")).unwrap();
    left.set_modified(old).unwrap();
    drop(queue.drain().unwrap());
    assert_eq!(count(&queue, "tmp"), 0);
}

#[test]
fn torn_and_foreign_files_are_put_aside_and_stop_nothing() {
    let (_dir, queue) = queue();
    let entries = queue.entries();
    fs::write(entries.join("0-torn"), &entry::encode(&paths(0..2))[..40]).unwrap();
    fs::write(entries.join("1-empty"), b"").unwrap();
    fs::write(entries.join("README"), b"hello").unwrap();
    fs::create_dir(entries.join("2-folder")).unwrap();
    queue.add(&[path(7)]).unwrap();
    assert_eq!(take_all(&queue.drain().unwrap()), [path(7)]);
    assert_eq!((count(&queue, "new"), count(&queue, "aside")), (0, 4));
}

#[test]
fn a_bad_path_is_tried_again_ever_later_and_for_ever() {
    let (_dir, queue) = queue();
    queue.add(&paths(0..2)).unwrap();
    let drain = queue.drain().unwrap();
    let mut batch = drain.take(9).unwrap();
    let mut now = 1_000_000;
    let bad = [(path(1), "no file".to_owned())];
    let mut pauses = Vec::new();
    for attempt in 1..=9 {
        let [failed] = &drain.settle_at(batch, &bad, now).unwrap()[..] else { panic!("one") };
        assert!(drain.take(9).unwrap().paths.is_empty(), "it does not block the queue");
        assert_eq!(queue.failed().unwrap(), std::slice::from_ref(failed));
        assert_eq!(failed.reason, "no file");
        assert_eq!(failed.attempts, attempt);
        let next = failed.next;
        pauses.push(next - now);
        assert!(drain.take_due_at(9, next - 1).unwrap().paths.is_empty());
        batch = drain.take_due_at(9, next).unwrap();
        assert_eq!(batch.paths, [path(1)]);
        now = next;
    }
    assert!(pauses.is_sorted() && pauses[0] == 60 && pauses[8] == 3 * 3600, "{pauses:?}");
    // A person has repaired it.
    assert_eq!(queue.retry(&[path(0)]).unwrap(), 0);
    assert_eq!(queue.retry(&[]).unwrap(), 1);
    assert_eq!((take_all(&drain), queue.failed().unwrap().len()), (vec![path(1)], 0));
}

#[test]
fn a_bad_path_that_gets_through_is_forgotten() {
    let (_dir, queue) = queue();
    queue.add(&[path(1)]).unwrap();
    let drain = queue.drain().unwrap();
    let batch = drain.take(9).unwrap();
    drain.settle_at(batch, &[(path(1), "no file".to_owned())], 0).unwrap();
    let batch = drain.take_due(9).unwrap();
    assert_eq!(batch.paths, [path(1)]);
    drain.settle(batch, &[]).unwrap();
    assert!(queue.failed().unwrap().is_empty());
}

#[test]
fn a_damaged_note_of_a_bad_path_has_it_tried_again() {
    let (_dir, queue) = queue();
    fs::write(queue.dir().join("failed").join(path(1).to_string()), b"{").unwrap();
    fs::write(queue.dir().join("failed/README"), b"hello").unwrap();
    assert_eq!(queue.drain().unwrap().take_due(9).unwrap().paths, [path(1)]);
}

#[test]
fn clearing_forgets_what_it_is_told_to() {
    let (_dir, queue) = queue();
    queue.add(&paths(0..2)).unwrap();
    let drain = queue.drain().unwrap();
    let batch = drain.take(9).unwrap();
    drain.settle(batch, &[(path(1), "no file".to_owned())]).unwrap();
    queue.add(&[path(2)]).unwrap();
    queue.clear(true).unwrap();
    assert_eq!((queue.failed().unwrap().len(), queue.waiting(9).unwrap().0), (0, vec![path(2)]));
    queue.clear(false).unwrap();
    assert!(queue.waiting(9).unwrap().0.is_empty());
}

#[test]
fn one_process_takes_out_at_a_time() {
    let (_dir, queue) = queue();
    let drain = queue.drain().unwrap();
    assert!(matches!(queue.drain(), Err(Error::Locked(_))));
    drop(drain);
    queue.drain().unwrap();
}

#[test]
fn a_queue_is_for_one_cache_and_for_nobody_elses_eyes() {
    let (_dir, queue) = queue();
    let error = Queue::open(queue.dir(), "https://other.example.org/main").unwrap_err();
    assert!(error.to_string().contains(CACHE), "{error}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(queue.dir()), mode(&queue.entries())), (0o700, 0o700));
    queue.add(&[path(1)]).unwrap();
    let entry = fs::read_dir(queue.entries()).unwrap().next().unwrap().unwrap();
    assert_eq!(mode(&entry.path()), 0o600);
}

#[test]
fn queues_are_named_after_their_caches() {
    for (url, name) in [
        ("https://cache.example.org", "cache.example.org-main"),
        ("http://127.0.0.1:8080/", "127.0.0.1_8080-main"),
        ("https://host/deep/er", "host_deep_er-main"),
        ("http://[::1]:80/x", "___1__x-main"),
    ] {
        assert_eq!(queue_name(&url.parse().unwrap(), "main"), name);
    }
}
