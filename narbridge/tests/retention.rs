//! What the owner of a cache may count on when paths go: what is used stays with its closure.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use castore::ManualClock;
use narbridge::cache::{CacheChanges, Pusher};
use narbridge::retention::{CachePlan, Defaults, Terms, Why};
use narbridge::{Cache, Storehouse};
use support::{hash, house, house_at, now, number, open, publish};

const DAY: u64 = 24 * 3600;
const MONTH: Defaults = Defaults { retention: Some(30 * DAY), max_age: None, max_size: None };

/// The plan of the one cache. Nothing is so fresh that it stays.
fn plan(house: &Storehouse, defaults: &Defaults, at: u64, pinned: &[u16]) -> CachePlan {
    plan_sparing(house, defaults, at, u64::MAX, pinned).unwrap()
}

fn plan_sparing(
    house: &Storehouse,
    defaults: &Defaults,
    now: u64,
    fresh: u64,
    pinned: &[u16],
) -> Option<CachePlan> {
    let roots: Vec<_> = pinned.iter().map(|number| hash(*number)).collect();
    let terms = Terms { defaults, now, fresh };
    house.plan_retention(&house.cache("team").unwrap(), &terms, &roots).unwrap()
}

fn gone(plan: &CachePlan) -> Vec<(u16, Why)> {
    plan.expired.iter().map(|path| (number(&path.hash), path.why)).collect()
}

fn reviewed(plan: &CachePlan) -> Vec<u16> {
    plan.review().map(|path| number(&path.unwrap().hash)).collect()
}

#[test]
fn nothing_goes_without_a_rule_or_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    publish(&house.cache("team").unwrap(), 1, &[]);
    assert!(plan_sparing(&house, &Defaults::default(), u64::MAX, u64::MAX, &[]).is_none());
    let plan = plan(&house, &MONTH, now() + 29 * DAY, &[]);
    assert!(plan.expired.is_empty());
    assert_eq!((plan.kept.paths, plan.pinned.paths), (1, 0));
    assert!(plan.kept.size > 0);
}

#[test]
fn what_is_unused_goes_with_what_only_it_needs_and_a_pin_holds_a_closure() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 2, &[2, 1]);
    publish(&cache, 3, &[99]);
    let later = now() + 31 * DAY;
    let all = plan(&house, &MONTH, later, &[]);
    let order: Vec<u16> = gone(&all).iter().map(|(number, _)| *number).collect();
    let place = |number| order.iter().position(|gone| *gone == number).unwrap();
    assert!(order.len() == 3 && place(2) < place(1), "what refers goes first: {order:?}");
    let first = &all.expired[place(2)];
    assert_eq!((&first.name[..], first.why), ("p2", Why::Unused));
    assert!(first.file_size > 0 && first.nar_size > 0 && first.sequence > 0);
    assert!(first.last_used.abs_diff(now()) < 60 && first.uploaded.abs_diff(now()) < 60);

    let held = plan(&house, &MONTH, later, &[2, 77]);
    assert_eq!(gone(&held), [(3, Why::Unused)]);
    assert_eq!((held.kept.paths, held.pinned.paths), (2, 2));
}

#[test]
fn what_was_used_stays_wherever_it_comes_among_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    (1..=9).for_each(|number| publish(&cache, number, &[]));
    let later = now() + 31 * DAY;
    for number in [1, 5, 9] {
        cache.narinfo(hash(number)).unwrap().unwrap();
    }
    house.flush_accesses().unwrap();
    for (use_of_one, _) in house.store().scan_derived(b"used/", None, 9).unwrap() {
        house.store().remember(&use_of_one, &later.to_be_bytes()).unwrap();
    }
    let plan = plan(&house, &MONTH, later, &[]);
    let mut gone: Vec<u16> = gone(&plan).into_iter().map(|(number, _)| number).collect();
    gone.sort_unstable();
    assert_eq!(gone, [2, 3, 4, 6, 7, 8]);
}

#[test]
fn the_rules_of_a_cache_come_before_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    publish(&house.cache("team").unwrap(), 1, &[]);
    let changes = CacheChanges {
        retention: Some(Some(1000 * DAY)),
        max_age: Some(Some(40 * DAY)),
        ..CacheChanges::default()
    };
    house.configure_cache(&"team".parse().unwrap(), &changes).unwrap();
    assert!(plan(&house, &MONTH, now() + 31 * DAY, &[]).expired.is_empty());
    assert_eq!(gone(&plan(&house, &MONTH, now() + 41 * DAY, &[])), [(1, Why::Old)]);
    let small = Defaults { max_size: Some(1), ..MONTH };
    assert_eq!(gone(&plan(&house, &small, now(), &[])), [(1, Why::Space)]);
}

#[test]
fn what_is_fresh_goes_for_being_unused_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    (1..=4).for_each(|number| publish(&cache, number, if number == 3 { &[1] } else { &[] }));
    let later = now() + 1000 * DAY;
    cache.narinfo(hash(3)).unwrap().unwrap();
    house.flush_accesses().unwrap();
    let uses = house.store().scan_derived(b"used/", None, 9).unwrap();
    let (use_of_it, _) = uses.iter().find(|(key, _)| key.ends_with(hash(3).as_bytes())).unwrap();
    house.store().remember(use_of_it, &later.to_be_bytes()).unwrap();
    let gone_by = |rules: Defaults| {
        let plan = plan_sparing(&house, &rules, later + DAY, later, &[]).unwrap();
        let mut gone = gone(&plan);
        gone.sort_unstable_by_key(|(number, _)| *number);
        gone
    };
    let none = Defaults::default();
    assert_eq!(gone_by(Defaults { max_age: Some(1), ..none }), [2, 4].map(|at| (at, Why::Old)));
    assert_eq!(gone_by(Defaults { max_size: Some(1), ..none }), [2, 4].map(|at| (at, Why::Space)));
    let unused = gone_by(Defaults { retention: Some(1), ..none });
    assert_eq!(unused, [1, 2, 3, 4].map(|at| (at, Why::Unused)));
}

#[test]
fn uses_through_every_door_count_and_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    (1..=4).for_each(|number| publish(&cache, number, &[]));
    let used =
        |cache: &Cache| (1..=5).map(|at| cache.last_used(hash(at)).unwrap()).collect::<Vec<_>>();
    assert_eq!(used(&cache), [None; 5], "an upload is no use");

    cache.narinfo(hash(1)).unwrap().unwrap();
    cache.narinfo(hash(5)).map(|absent| assert!(absent.is_none())).unwrap();
    let question =
        granary_api::sync::SyncPaths { hashes: hash(2).as_bytes().to_vec(), ..Default::default() };
    cache.sync(&question).unwrap().for_each(|path| drop(path.unwrap()));
    let pusher = Pusher {
        holders: vec![cache.holder()],
        intake: cache.holder(),
        subject: "ci".to_owned(),
        reads: true,
    };
    let missing = cache.missing_paths(vec![hash(3), hash(5)], &pusher).unwrap();
    assert_eq!(missing, [hash(5)]);
    let check = |used: Vec<Option<u64>>| {
        assert!(used[..3].iter().all(|used| used.is_some_and(|used| used.abs_diff(now()) < 60)));
        assert_eq!(used[3..], [None; 2]);
    };
    check(used(&cache));
    drop((cache, house));
    let house = open(dir.path());
    check(used(&house.cache("team").unwrap()));
}

#[test]
fn a_narinfo_told_from_memory_counts() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    cache.narinfo(hash(1)).unwrap();
    house.flush_accesses().unwrap();
    let first = cache.last_used(hash(1)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // A server that works on an index of its own tells it from memory.
    let told = match cache.known_narinfo(hash(1)) {
        Some(known) => known,
        None => cache.narinfo(hash(1)).unwrap(),
    };
    assert!(told.is_some());
    assert!(cache.last_used(hash(1)).unwrap() > first);
}

#[test]
fn a_review_spares_what_was_used_or_pushed_since_and_its_closure() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 2, &[1]);
    publish(&cache, 3, &[2]);
    publish(&cache, 4, &[]);
    publish(&cache, 5, &[4]);
    publish(&cache, 6, &[]);
    clock.advance(Duration::from_secs(1));
    let plan = plan(&house, &MONTH, now() + 31 * DAY, &[]);
    assert_eq!(plan.expired.len(), 6);
    assert_eq!(reviewed(&plan).len(), 6);
    cache.narinfo(hash(2)).unwrap().unwrap();
    house.flush_accesses().unwrap();
    publish(&cache, 5, &[4]);
    let mut left = reviewed(&plan);
    left.sort();
    assert_eq!(left, [3, 6], "2 was used and 5 pushed, so 1 and 4 are needed");
}

#[test]
fn an_index_that_was_remade_makes_nothing_go() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    publish(&house.cache("team").unwrap(), 1, &[]);
    let made = house.used_since().unwrap();
    // As if the store had been here for long.
    let long_ago = (now() - 100 * DAY).to_be_bytes();
    house.store().remember(b"used-since", &long_ago).unwrap();
    drop(house);
    let house = open(dir.path());
    assert!(house.used_since().unwrap() < made);
    drop(house);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let house = open(dir.path());
    assert!(house.used_since().unwrap() >= made);
    let long = Defaults { retention: Some(10), ..Defaults::default() };
    assert!(plan(&house, &long, now() + 5, &[]).expired.is_empty());
}

#[test]
fn uses_of_paths_that_are_gone_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 3, &[]);
    (1..=3).for_each(|number| drop(cache.narinfo(hash(number)).unwrap()));
    house.flush_accesses().unwrap();
    let prefix = house.store().scan_derived(b"used/", None, 1).unwrap()[0].0[..9].to_vec();
    for number in [0, 2, 9] {
        let key = [&prefix[..], hash(number).as_bytes()].concat();
        house.store().remember(&key, &7_u64.to_be_bytes()).unwrap();
    }
    plan(&house, &MONTH, now(), &[]);
    let left = house.store().scan_derived(b"used/", None, 100).unwrap();
    let left: Vec<u16> =
        left.iter().map(|(key, _)| u16::from_be_bytes([key[9], key[10]])).collect();
    assert_eq!(left, [1, 3]);
}
