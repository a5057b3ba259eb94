//! What every index engine has to do, as a suite to run over each of them.

pub mod shared;

use super::{Batch, Index, IndexError};

/// Runs the suite; `fresh` makes an empty index. Panics where a promise is broken.
pub fn check<I: Index>(mut fresh: impl FnMut() -> I) {
    absent_keys_have_no_value(&fresh());
    a_batch_is_all_or_nothing(&fresh());
    the_last_change_to_a_key_wins(&fresh());
    scans_are_ordered_bounded_and_resumable(&fresh());
    any_bytes_are_a_key_and_a_value(&fresh());
    of_racing_batches_one_wins(&fresh());
    an_empty_batch_changes_nothing(&fresh());
    no_increment_of_a_counter_is_lost(&fresh());
    a_batch_may_be_large(&fresh());
}

fn put(index: &impl Index, pairs: &[(&[u8], &[u8])]) {
    let mut batch = Batch::default();
    for (key, value) in pairs {
        batch.put(*key, *value);
    }
    assert!(index.apply(&batch).is_ok());
}

fn value(index: &impl Index, key: &[u8]) -> Option<Vec<u8>> {
    match index.get(key) {
        Ok(value) => value,
        Err(error) => panic!("get failed: {error}"),
    }
}

fn scan(index: &impl Index, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
    match index.scan(prefix, after, limit) {
        Ok(pairs) => pairs.into_iter().map(|(key, _)| key).collect(),
        Err(error) => panic!("scan failed: {error}"),
    }
}

fn absent_keys_have_no_value(index: &impl Index) {
    assert_eq!(value(index, b"nothing"), None);
    put(index, &[(b"a", b"1"), (b"c", b"3")]);
    let many = index.get_many(&[b"c", b"b", b"a", b"a"]);
    let expected = vec![Some(b"3".to_vec()), None, Some(b"1".to_vec()), Some(b"1".to_vec())];
    assert_eq!(many.ok(), Some(expected));
    assert_eq!(index.get_many(&[]).ok(), Some(vec![]));
}

fn a_batch_is_all_or_nothing(index: &impl Index) {
    put(index, &[(b"a", b"1")]);
    let mut batch = Batch::default();
    batch.put(*b"b", *b"2").remove(*b"a");
    batch.expect(*b"a", Some(b"1".to_vec())).expect(*b"z", Some(b"?".to_vec()));
    assert!(matches!(index.apply(&batch), Err(IndexError::Conflict)));
    assert_eq!(value(index, b"a"), Some(b"1".to_vec()));
    assert_eq!(value(index, b"b"), None);
    batch.expect.pop();
    batch.expect(*b"z", None);
    assert!(index.apply(&batch).is_ok());
    assert_eq!(value(index, b"a"), None);
    assert_eq!(value(index, b"b"), Some(b"2".to_vec()));
}

fn the_last_change_to_a_key_wins(index: &impl Index) {
    let mut batch = Batch::default();
    batch.put(*b"k", *b"1").remove(*b"k").put(*b"k", *b"2");
    batch.put(*b"l", *b"1").remove(*b"l");
    assert!(index.apply(&batch).is_ok());
    assert_eq!(value(index, b"k"), Some(b"2".to_vec()));
    assert_eq!(value(index, b"l"), None);
}

fn scans_are_ordered_bounded_and_resumable(index: &impl Index) {
    put(index, &[(b"b/2", b""), (b"b/", b""), (b"b/10", b""), (b"a", b""), (b"c", b"")]);
    put(index, &[(b"b/\xff\xff", b""), (b"b0", b"")]);
    let all: Vec<Vec<u8>> = [&b"b/"[..], b"b/10", b"b/2", b"b/\xff\xff"].map(Vec::from).to_vec();
    assert_eq!(scan(index, b"b/", None, 100), all);
    assert_eq!(scan(index, b"b/", None, 2), all[..2]);
    assert_eq!(scan(index, b"b/", Some(b"b/10"), 100), all[2..]);
    assert_eq!(scan(index, b"b/", Some(b"b/1"), 1), all[1..2]);
    assert_eq!(scan(index, b"b/", Some(b"a"), 100), all);
    assert_eq!(scan(index, b"b/", Some(b"c"), 100), Vec::<Vec<u8>>::new());
    assert_eq!(scan(index, b"", None, 100).len(), 7);
}

fn any_bytes_are_a_key_and_a_value(index: &impl Index) {
    let long = vec![0xa5; 40_000];
    put(index, &[(b"\0", b""), (b"\xff", &long), (&[7; 300], b"\0")]);
    assert_eq!(value(index, b"\0"), Some(vec![]));
    assert_eq!(value(index, b"\xff"), Some(long));
    assert_eq!(value(index, &[7; 300]), Some(vec![0]));
}

fn of_racing_batches_one_wins(index: &impl Index) {
    let wins: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0u8..8)
            .map(|racer| {
                scope.spawn(move || {
                    let mut wins = 0;
                    for round in 0u8..20 {
                        let mut batch = Batch::default();
                        batch.put([b'r', round], [racer]).expect([b'r', round], None);
                        match index.apply(&batch) {
                            Ok(()) => wins += 1,
                            Err(IndexError::Conflict) => {}
                            Err(error) => panic!("apply failed: {error}"),
                        }
                    }
                    wins
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap_or(0)).sum()
    });
    assert_eq!(wins, 20, "each round has one winner");
}

fn an_empty_batch_changes_nothing(index: &impl Index) {
    assert!(index.apply(&Batch::default()).is_ok());
    assert_eq!(scan(index, b"", None, 100).len(), 0);
    put(index, &[(b"k", b"1")]);
    let mut batch = Batch::default();
    batch.expect(*b"k", Some(b"1".to_vec())).expect(*b"l", None);
    assert!(index.apply(&batch).is_ok());
    batch.expect(*b"m", Some(vec![]));
    assert!(matches!(index.apply(&batch), Err(IndexError::Conflict)));
    assert_eq!(scan(index, b"", None, 100), [b"k"]);
    assert_eq!(scan(index, b"", None, 0).len(), 0);
}

/// Adds one to the number under `counter`, by looking and comparing.
fn increment(index: &impl Index) {
    loop {
        let old = value(index, b"counter");
        let number =
            old.as_ref().and_then(|old| Some(u32::from_be_bytes(old[..].try_into().ok()?)));
        let mut batch = Batch::default();
        batch.put(*b"counter", (number.unwrap_or(0) + 1).to_be_bytes()).expect(*b"counter", old);
        match index.apply(&batch) {
            Ok(()) => return,
            Err(IndexError::Conflict) => {}
            Err(error) => panic!("apply failed: {error}"),
        }
    }
}

fn no_increment_of_a_counter_is_lost(index: &impl Index) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| increment(index)));
        }
        // Batches without conditions go on meanwhile, on keys of their own and in both orders.
        for thread in 0..4u8 {
            scope.spawn(move || {
                for round in 0..25u8 {
                    let (one, other) = if thread % 2 == 0 { (b"x", b"y") } else { (b"y", b"x") };
                    put(index, &[(one, &[thread, round]), (other, &[thread, round])]);
                }
            });
        }
    });
    assert_eq!(value(index, b"counter"), Some(200u32.to_be_bytes().to_vec()));
    assert_eq!(value(index, b"x"), value(index, b"y"));
}

fn a_batch_may_be_large(index: &impl Index) {
    const COUNT: u32 = 100_000;
    let key = |number: u32| [b"n/", &number.to_be_bytes()[..]].concat();
    let mut batch = Batch::default();
    // Not in their order.
    for number in (0..COUNT).rev() {
        batch.put(key(number), number.to_le_bytes());
    }
    batch.put(*b"o", *b"");
    assert!(index.apply(&batch).is_ok());
    let keys: Vec<Vec<u8>> = (0..2000).map(|at| key(at * 53)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let values = index.get_many(&keys).unwrap_or_default();
    let expected = (0..2000u32)
        .map(|at| at * 53)
        .map(|number| (number < COUNT).then(|| number.to_le_bytes().to_vec()));
    assert!(values.into_iter().eq(expected), "a value is missing or another's");

    let (mut seen, mut after) = (0, None);
    loop {
        let page = scan(index, b"n/", after.as_deref(), 7777);
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for found in page {
            assert_eq!(found, key(seen));
            seen += 1;
        }
    }
    assert_eq!(seen, COUNT);

    let mut batch = Batch::default();
    for number in 0..COUNT {
        match number % 1000 {
            0 => batch.put(key(number), *b"kept"),
            _ => batch.remove(key(number)),
        };
    }
    for number in 0..10_000 {
        batch.expect(key(number), Some(number.to_le_bytes().to_vec()));
    }
    assert!(index.apply(&batch).is_ok());
    assert_eq!(scan(index, b"n/", None, 1000).len(), 100);
    assert!(matches!(index.apply(&batch), Err(IndexError::Conflict)));
}
