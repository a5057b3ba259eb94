//! What the owner of a cache may count on when paths go: what is used stays with its closure.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use castore::Options;
use narbridge::cache::{CacheChanges, CacheSettings, PinRequest, Pusher};
use narbridge::gc::{GcOptions, GcReport};
use narbridge::retention::{CachePlan, Defaults, Why};
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

const DAY: u64 = 24 * 3600;
const MONTH: Defaults = Defaults { retention: Some(30 * DAY), max_age: None, max_size: None };

fn open(dir: &Path) -> Storehouse {
    Storehouse::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn house(dir: &Path) -> Storehouse {
    let house = open(dir);
    house.create_cache(&"team".parse().unwrap(), &CacheSettings::default(), None).unwrap();
    house
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// By its first byte it sorts among others the other way round than by its text.
fn hash(number: u8) -> StorePathHash {
    let mut bytes = [!number; 20];
    bytes[0] = number;
    bytes.into()
}

/// Puts a path of a single file into the cache.
fn publish(cache: &Cache, number: u8, references: &[u8]) {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, 1, &mut &[number][..]).unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("{}.nar", nar_hash.to_nix32());
    cache.upload_nar(url.parse().unwrap(), &nar[..], 1 << 20, None).unwrap();
    let references: Vec<String> =
        references.iter().map(|number| format!("{}-p{number}", hash(*number))).collect();
    let text = format!(
        "StorePath: {}/{}-p{number}\nURL: nar/{url}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {}\nReferences: {}\n",
        cache.store_dir(),
        hash(number),
        nar_hash.to_nix32(),
        nar.len(),
        references.join(" "),
    );
    cache.publish(hash(number), text.as_bytes(), None).unwrap();
}

/// The plan of the one cache that has rules.
fn plan(house: &Storehouse, defaults: &Defaults, at: u64, pinned: &[u8]) -> CachePlan {
    let pinned = |_: &Cache| Ok(pinned.iter().map(|number| hash(*number)).collect());
    let mut plans = house.plan_retention(defaults, at, pinned).unwrap();
    assert_eq!(plans.len(), 1);
    plans.remove(0)
}

fn gone(plan: &CachePlan) -> Vec<(u8, Why)> {
    plan.expired.iter().map(|path| (path.hash.as_bytes()[0], path.why)).collect()
}

fn reviewed(plan: &CachePlan) -> Vec<u8> {
    plan.review().map(|path| path.unwrap().hash.as_bytes()[0]).collect()
}

#[test]
fn nothing_goes_without_a_rule_or_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    publish(&house.cache("team").unwrap(), 1, &[]);
    let no_pins = |_: &Cache| Ok(Vec::new());
    assert!(house.plan_retention(&Defaults::default(), u64::MAX, no_pins).unwrap().is_empty());
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
    let order: Vec<u8> = gone(&all).iter().map(|(number, _)| *number).collect();
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
    let mut gone: Vec<u8> = gone(&plan).into_iter().map(|(number, _)| number).collect();
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
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 2, &[1]);
    publish(&cache, 3, &[2]);
    publish(&cache, 4, &[]);
    publish(&cache, 5, &[4]);
    publish(&cache, 6, &[]);
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
    let left: Vec<u8> = left.iter().map(|(key, _)| key[9]).collect();
    assert_eq!(left, [1, 3]);
}

/// Everything goes that nothing holds, at once.
fn collect(house: &Storehouse, dry_run: bool) -> GcReport {
    let defaults = Defaults { max_size: Some(1), ..Defaults::default() };
    // What is used in the very second of the plan is spared.
    std::thread::sleep(Duration::from_millis(1100));
    let options = GcOptions { defaults, grace: Duration::ZERO, dry_run, ..GcOptions::default() };
    house.collect(&options, &mut |_| ()).unwrap().unwrap()
}

fn is_there(cache: &Cache, number: u8) -> bool {
    cache.narinfo(hash(number)).unwrap().is_some()
}

fn pin(cache: &Cache, number: u8) {
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
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let cache = house.cache("team").unwrap();
    publish(&cache, 1, &[]);
    publish(&cache, 2, &[2, 1]);
    publish(&cache, 3, &[1]);
    publish(&cache, 4, &[]);
    pin(&cache, 2);
    let planned = collect(&house, true);
    assert!((1..=4).all(|number| is_there(&cache, number)));
    let done = collect(&house, false);
    assert_eq!((planned.paths(), planned.paths_size()), (2, done.paths_size()));
    assert_eq!(done.caches, planned.caches);
    assert!(done.swept.packs > 0 && !done.blocked && done.lost == 0, "{done:?}");
    assert_eq!([1, 2, 3, 4].map(|number| is_there(&cache, number)), [true, true, false, false]);
    publish(&cache, 3, &[1]);
    assert!(is_there(&cache, 3));
    cache.remove_pin(&"release".parse().unwrap()).unwrap();
    assert_eq!(collect(&house, false).paths(), 3);
    // After a restart, and from the packs alone.
    drop((cache, house));
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let house = open(dir.path());
    let cache = house.cache("team").unwrap();
    assert!((1..=4).all(|number| !is_there(&cache, number)));
}

#[test]
fn a_destroyed_cache_can_be_restored_until_its_grace_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let house = house(dir.path());
    let name = "team".parse().unwrap();
    publish(&house.cache("team").unwrap(), 1, &[]);
    house.destroy_cache(&name).unwrap();
    house.collect(&GcOptions::default(), &mut |_| ()).unwrap().unwrap();
    assert!(is_there(&house.restore_cache(&name).unwrap(), 1));
    house.destroy_cache(&name).unwrap();
    let report = collect(&house, false);
    assert!(report.caches[0].destroyed && report.paths() == 1, "{report:?}");
    assert!(!is_there(&house.restore_cache(&name).unwrap(), 1));
}
