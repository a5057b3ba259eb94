//! What every engine that is shared has to do, as a suite to run over each of them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::index::{Held, Index, IndexError, News, Shared};

/// How long something that happens at once may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing is watched happening.
const WHILE: Duration = Duration::from_millis(300);

/// Runs the suite; `join` opens the same index once more, as another process would. Panics where a
/// promise is broken.
pub fn check<I: Index>(mut join: impl FnMut() -> I) {
    members_see_each_other_and_forget_who_is_gone(&mut join);
    a_lock_has_one_holder(&join(), &join());
    whoever_waits_for_a_lock_gets_it_next(&join(), &join());
    a_lock_ends_with_its_member(&mut join);
    messages_reach_all_but_who_said_them(&join(), &join(), &join());
    what_one_has_applied_the_others_read(&join(), &join());
}

/// What the engine offers to many.
fn shared(index: &impl Index) -> &dyn Shared {
    match index.shared() {
        Some(shared) => shared,
        None => panic!("the engine is not shared"),
    }
}

/// The value, or the end of the test.
pub fn must<T>(outcome: Result<T, IndexError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// What is said to a member from now on.
pub fn hear(index: &impl Index) -> Receiver<News> {
    let (heard, news) = channel();
    shared(index).listen(Box::new(move |news| drop(heard.send(news))));
    news
}

/// The next that is heard.
pub fn next(news: &Receiver<News>) -> News {
    match news.recv_timeout(PATIENCE) {
        Ok(news) => news,
        Err(error) => panic!("nothing was heard: {error}"),
    }
}

fn try_lock(index: &impl Index, name: &str) -> Option<Box<dyn Held>> {
    must(shared(index).try_lock(name))
}

fn members_see_each_other_and_forget_who_is_gone<I: Index>(join: &mut impl FnMut() -> I) {
    let (one, two) = (join(), join());
    assert_ne!(shared(&one).member(), shared(&two).member());
    assert_eq!(must(shared(&one).others()), [shared(&two).member()]);
    assert_eq!(must(shared(&two).others()), [shared(&one).member()]);
    drop(two);
    eventually("who is gone is forgotten", || must(shared(&one).others()).is_empty());
}

fn a_lock_has_one_holder(one: &impl Index, two: &impl Index) {
    let held = must(shared(one).lock("a"));
    assert!(held.is_held());
    assert!(try_lock(two, "a").is_none());
    assert!(try_lock(one, "a").is_none(), "a member excludes itself, too");
    let other = try_lock(two, "b");
    assert!(other.is_some(), "locks with other names are other locks");
    drop(held);
    eventually("a dropped lock is free", || try_lock(two, "a").is_some());
}

fn whoever_waits_for_a_lock_gets_it_next(one: &impl Index, two: &impl Index) {
    let held = must(shared(one).lock("a"));
    let (got, gotten) = channel();
    scope(|scope| {
        scope.spawn(move || got.send(must(shared(two).lock("a"))));
        assert!(matches!(gotten.recv_timeout(WHILE), Err(RecvTimeoutError::Timeout)));
        drop(held);
        let Ok(held) = gotten.recv_timeout(PATIENCE) else { panic!("the lock was not handed on") };
        assert!(held.is_held());
    });
    let counter = std::sync::Mutex::new(());
    scope(|scope| {
        for thread in 0..8 {
            let counter = &counter;
            scope.spawn(move || {
                for _ in 0..10 {
                    let name = "order";
                    let held = match thread % 2 {
                        0 => must(shared(one).lock(name)),
                        _ => must(shared(two).lock(name)),
                    };
                    let alone = counter.try_lock();
                    assert!(alone.is_ok(), "two hold the lock");
                    std::thread::yield_now();
                    drop((alone, held));
                }
            });
        }
    });
}

fn a_lock_ends_with_its_member<I: Index>(join: &mut impl FnMut() -> I) {
    let (one, two) = (join(), join());
    let held = must(shared(&two).lock("a"));
    assert!(try_lock(&one, "a").is_none());
    drop(two);
    eventually("the lock is free", || try_lock(&one, "a").is_some());
    assert!(!held.is_held());
}

fn messages_reach_all_but_who_said_them(one: &impl Index, two: &impl Index, three: &impl Index) {
    must(shared(one).say("before anybody listens"));
    sleep(WHILE);
    let all = [hear(one), hear(two), hear(three)];
    let long = "long ".repeat(800);
    for text in ["first", "a:b", "", &long] {
        must(shared(one).say(text));
        let said = News::Said { from: shared(one).member(), text: text.to_owned() };
        assert_eq!(next(&all[1]), said);
        assert_eq!(next(&all[2]), said);
    }
    must(shared(two).say("back"));
    let said = News::Said { from: shared(two).member(), text: "back".to_owned() };
    assert_eq!(next(&all[0]), said, "a member heard itself");
    assert!(shared(one).say(&"x".repeat(4001)).is_err());
}

fn what_one_has_applied_the_others_read(one: &impl Index, two: &impl Index) {
    for round in 0..50u8 {
        let mut batch = crate::index::Batch::default();
        batch.put(*b"k", [round]);
        must(one.apply(&batch));
        assert_eq!(must(two.get(b"k")), Some(vec![round]));
    }
}
