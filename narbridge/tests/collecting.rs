//! What a collection takes from caches, and what it leaves, whatever happens at the same time.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use castore::ManualClock;
use narbridge::cache::{CacheChanges, CacheSettings, PinRequest};
use narbridge::gc::{GcOptions, GcReport, GcStep};
use narbridge::retention::Defaults;
use narbridge::{Cache, Storehouse, StorehouseError};
use support::{hash, house_at, now, number, open, open_at, publish};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Paths that are removed with one write, and one more.
const MORE_THAN_ONCE: u16 = 257;

/// Everything goes that nothing holds, at once.
fn collect(house: &Storehouse, clock: &ManualClock, dry_run: bool) -> GcReport {
    let defaults = Defaults { max_size: Some(1), ..Defaults::default() };
    // What is used in the very second of the plan is spared.
    clock.advance(Duration::from_secs(1));
    let options = GcOptions { defaults, dry_run, ..at_once() };
    house.collect(&options, &mut |_| ()).unwrap().unwrap()
}

fn is_there(cache: &Cache, number: u16) -> bool {
    cache.narinfo(hash(number)).unwrap().is_some()
}

fn pin(cache: &Cache, number: u16) {
    let request = PinRequest {
        path: format!("{}-p{number}", hash(number)).parse().unwrap(),
        revisions: None,
        until: None,
        with_sources: false,
        created_by: String::new(),
    };
    cache.add_pin(&"release".parse().unwrap(), &request).unwrap();
}

#[test]
fn a_collection_takes_what_no_pin_holds_and_a_dry_run_says_what() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 2, &[2, 1]);
    publish(&cache, 3, &[1]);
    publish(&cache, 4, &[]);
    pin(&cache, 2);
    let planned = collect(&house, &clock, true);
    assert!((1..=4).all(|number| is_there(&cache, number)));
    let done = collect(&house, &clock, false);
    assert_eq!((planned.paths(), planned.paths_size()), (2, done.paths_size()));
    assert_eq!(done.caches, planned.caches);
    assert!(done.swept.packs > 0 && !done.blocked && done.lost == 0, "{done:?}");
    assert_eq!([1, 2, 3, 4].map(|number| is_there(&cache, number)), [true, true, false, false]);
    publish(&cache, 3, &[1]);
    assert!(is_there(&cache, 3));
    cache.remove_pin(&"release".parse().unwrap()).unwrap();
    assert_eq!(collect(&house, &clock, false).paths(), 3);
    // After a restart, and from the packs alone.
    drop((cache, house));
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let house = open(dir.path());
    let cache = house.cache("team").unwrap();
    assert!((1..=4).all(|number| !is_there(&cache, number)));
}

#[test]
fn a_destroyed_cache_can_be_restored_until_its_grace_is_over() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let name = "team".parse().unwrap();
    publish(&house.cache("team").unwrap(), 1, &[]);
    house.destroy_cache(&name).unwrap();
    house.collect(&GcOptions::default(), &mut |_| ()).unwrap().unwrap();
    assert!(is_there(&house.restore_cache(&name).unwrap(), 1));
    house.destroy_cache(&name).unwrap();
    let report = collect(&house, &clock, false);
    assert!(report.caches[0].destroyed && report.paths() == 1, "{report:?}");
    assert!(!is_there(&house.restore_cache(&name).unwrap(), 1));
}

/// Without a grace period.
fn at_once() -> GcOptions<'static> {
    GcOptions { grace: Duration::ZERO, ..GcOptions::default() }
}

#[test]
fn who_pins_while_paths_are_removed_keeps_what_is_pinned_and_nothing_else() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let other = house.create_cache(&"other".parse().unwrap(), &CacheSettings::default(), None);
    let (cache, other) = (house.cache("team").unwrap(), other.unwrap());
    publish(&other, 1, &[]);
    (1..=MORE_THAN_ONCE).for_each(|number| publish(&cache, number, &[]));
    let changes = CacheChanges { retention: Some(Some(1)), ..CacheChanges::default() };
    house.configure_cache(cache.name(), &changes).unwrap();
    clock.advance(DAY);
    let mut pinned = None;
    let mut progress = |step| {
        if let (GcStep::Expiring(256), None) = (step, pinned) {
            // What is elsewhere is nobody's matter here.
            pin(&other, 1);
            let left = cache.paths(None, 2).unwrap();
            assert_eq!(left.len(), 1);
            pinned = Some(number(&left[0].hash()));
            pin(&cache, number(&left[0].hash()));
        }
    };
    let report = house.collect(&at_once(), &mut progress).unwrap().unwrap();
    let left = pinned.unwrap();
    let of_cache = report.caches.iter().find(|cache| cache.name == "team").unwrap();
    assert_eq!((of_cache.gone(), of_cache.kept, of_cache.pinned), (256, 1, 1), "{report:?}");
    assert!(is_there(&cache, left));
}

#[test]
fn a_cache_that_is_half_gone_comes_back_only_when_all_of_it_is() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let (name, cache) = ("team".parse().unwrap(), house.cache("team").unwrap());
    (1..=MORE_THAN_ONCE).for_each(|number| publish(&cache, number, &[]));
    cache.narinfo(hash(1)).unwrap().unwrap();
    house.flush_accesses().unwrap();
    house.destroy_cache(&name).unwrap();
    clock.advance(2 * DAY);
    let stop = AtomicBool::new(false);
    let options = GcOptions { stop: Some(&stop), ..GcOptions::default() };
    // It does not matter to it that caches are made.
    let mut progress = |_| {
        let number = clock.now();
        let name = format!("one-of-{number}").parse().unwrap();
        house.create_cache(&name, &CacheSettings::default(), None).unwrap();
        clock.advance(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
    };
    let report = house.collect(&options, &mut progress).unwrap().unwrap();
    assert_eq!(report.paths(), 256, "{report:?}");
    let refused = house.restore_cache(&name).err();
    assert!(matches!(refused, Some(StorehouseError::Buried(_))), "{refused:?}");
    drop((cache, house));
    let house = open_at(dir.path(), clock.clone().into());
    assert!(house.restore_cache(&name).is_err(), "after a restart, too");
    house.collect(&GcOptions::default(), &mut |_| ()).unwrap().unwrap();
    let cache = house.restore_cache(&name).unwrap();
    assert!((1..=MORE_THAN_ONCE).all(|number| !is_there(&cache, number)));
    let of_it = |kind: &str| [kind.as_bytes(), &1_u32.to_be_bytes()].concat();
    for kind in ["sig/", "used/", "profile/"] {
        let left = house.store().scan_derived(&of_it(kind), None, 1).unwrap();
        assert!(left.is_empty(), "{kind} is left");
    }
}

#[test]
fn the_paths_of_a_cache_that_is_restored_count_as_used_then() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let name = "team".parse().unwrap();
    publish(&house.cache("team").unwrap(), 1, &[]);
    house.destroy_cache(&name).unwrap();
    clock.advance(20 * DAY);
    let cache = house.restore_cache(&name).unwrap();
    let collect = || {
        let defaults = Defaults { retention: Some(2 * DAY.as_secs()), ..Defaults::default() };
        let options = GcOptions { defaults, grace: 30 * DAY, ..GcOptions::default() };
        house.collect(&options, &mut |_| ()).unwrap().unwrap().paths()
    };
    assert_eq!((collect(), is_there(&cache, 1)), (0, true));
    drop(cache);
    clock.advance(3 * DAY);
    // The look just now was a use.
    assert_eq!(collect(), 1);
}

#[test]
fn an_upload_has_an_hour_before_it_goes_for_its_age_or_for_space() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    let cache = house.cache("team").unwrap();
    let changes = CacheChanges { max_size: Some(Some(1)), ..CacheChanges::default() };
    house.configure_cache(&"team".parse().unwrap(), &changes).unwrap();
    publish(&cache, 1, &[]);
    clock.advance(Duration::from_secs(1800));
    // Somebody pushes what refers to it, which takes a while.
    let collect = || house.collect(&GcOptions::default(), &mut |_| ()).unwrap().unwrap().paths();
    assert_eq!(collect(), 0);
    publish(&cache, 2, &[1]);
    clock.advance(Duration::from_secs(3000));
    assert_eq!((collect(), is_there(&cache, 1)), (0, true), "what is built on is in use");
    clock.advance(Duration::from_secs(3601));
    assert_eq!(collect(), 2);
}

#[test]
fn when_garbage_was_collected_outlives_the_server() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(now()));
    let house = house_at(dir.path(), clock.clone().into());
    assert_eq!(house.last_collected().unwrap(), None);
    house.collect(&GcOptions { dry_run: true, ..GcOptions::default() }, &mut |_| ()).unwrap();
    let stop = AtomicBool::new(true);
    house.collect(&GcOptions { stop: Some(&stop), ..GcOptions::default() }, &mut |_| ()).unwrap();
    assert_eq!(house.last_collected().unwrap(), None, "neither was one");
    house.collect(&GcOptions::default(), &mut |_| ()).unwrap();
    let then = clock.now();
    drop(house);
    clock.advance(DAY);
    assert_eq!(open_at(dir.path(), clock.clone().into()).last_collected().unwrap(), Some(then));
}
