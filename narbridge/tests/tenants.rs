//! What the owner of a cache may count on: settings and keys change at once, for good, and whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use castore::Options;
use narbridge::cache::{CacheChanges, CacheSettings, Tag};
use narbridge::storehouse::{Storehouse, StorehouseError};
use narbridge::{Cache, CacheName};
use nix_compat::nar::Writer;
use nix_compat::narinfo::NarInfo;
use nix_compat::nixhash::Sha256;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePathHash};
use sha2::Digest;

fn open(dir: &Path) -> Storehouse {
    Storehouse::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn name(text: &str) -> CacheName {
    text.parse().unwrap()
}

fn hash() -> StorePathHash {
    "0123456789abcdfghijklmnpqrsvwxyz".parse().unwrap()
}

fn key(name: &str) -> SigningKey {
    SigningKey::generate(name, [name.len() as u8; 32]).unwrap()
}

fn house_with_cache(dir: &Path) -> (Storehouse, CacheName) {
    let house = open(dir);
    let name = name("team");
    house.create_cache(&name, &CacheSettings::default(), Some(key("old"))).unwrap();
    (house, name)
}

/// Puts a path of a single file into the cache.
fn publish(cache: &Cache) {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, 5, &mut &b"hello"[..]).unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("{}.nar", nar_hash.to_nix32());
    cache.upload_nar(url.parse().unwrap(), &nar[..], 1 << 20, None).unwrap();
    let (hash, size, dir) = (hash(), nar.len(), cache.store_dir());
    let text = format!(
        "StorePath: {dir}/{hash}-hello\nURL: nar/{url}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {size}\nReferences: \n",
        nar_hash.to_nix32(),
    );
    cache.publish(hash, text.as_bytes(), None).unwrap();
}

/// The names of the keys whose signatures the cache shows; each is verified.
fn signers(cache: &Cache) -> Vec<String> {
    let sent = cache.narinfo(hash()).unwrap().unwrap();
    assert!(cache.known_narinfo(hash()).is_none_or(|known| known.as_ref() == Some(&sent)));
    assert_eq!(sent.tag, Tag::of(&sent.text), "another text has another tag");
    let narinfo = NarInfo::parse(&sent.text, cache.store_dir()).unwrap();
    let fingerprint = narinfo.fingerprint(cache.store_dir());
    let verified = narinfo.signatures.iter().map(|signature| {
        let key = cache.keys().iter().find(|key| key.public_key().name() == signature.name());
        assert!(key.unwrap().public_key().verify(&fingerprint, signature), "{signature}");
        signature.name().to_owned()
    });
    verified.collect()
}

fn key_names(cache: &Cache) -> Vec<String> {
    cache.keys().iter().map(|key| key.public_key().name().to_owned()).collect()
}

#[test]
fn a_rotation_signs_with_both_keys_and_then_with_the_new_one_only() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    let before = house.cache("team").unwrap();
    publish(&before);
    assert_eq!(signers(&before), ["old"]);

    house.add_key(&name, Some(key("newer")), Some(2)).unwrap();
    let cache = house.cache("team").unwrap();
    assert_eq!(signers(&cache), ["newer", "old"]);
    assert_eq!(cache.public_keys().count(), 2);
    std::thread::sleep(Duration::from_millis(2100));
    assert!(cache.known_narinfo(hash()).is_none(), "the old signature is still sent from memory");
    assert_eq!(signers(&cache), ["newer"]);
    assert_eq!(cache.public_keys().map(|key| key.name().to_owned()).collect::<Vec<_>>(), ["newer"]);
    drop((before, cache, house));
    let cache = open(dir.path()).cache("team").unwrap();
    assert_eq!(signers(&cache), ["newer"]);
    assert_eq!(key_names(&cache), ["newer", "old"], "what once signed is still told");
}

#[test]
fn another_key_under_a_name_used_before_signs_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    publish(&house.cache("team").unwrap());
    assert_eq!(signers(&house.cache("team").unwrap()), ["old"]);
    house.add_key(&name, Some(key("between")), None).unwrap();
    house.retire_key(&name, "old", 0).unwrap();
    let other = SigningKey::generate("old", [99; 32]).unwrap();
    house.add_key(&name, Some(other), None).unwrap();
    house.retire_key(&name, "between", 0).unwrap();
    let cache = house.cache("team").unwrap();
    // `signers` verifies: the remembered signature of the first `old` would not pass.
    assert_eq!(signers(&cache), ["old"]);
}

#[test]
fn a_cache_keeps_a_key_that_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    for after in [0, 60] {
        let refused = house.retire_key(&name, "old", after).err();
        assert!(matches!(refused, Some(StorehouseError::LastKey { .. })), "{refused:?}");
    }
    let refused = house.retire_key(&name, "unknown", 0).err();
    assert!(matches!(refused, Some(StorehouseError::NoSuchKey { .. })), "{refused:?}");
    let refused = house.add_key(&name, Some(key("old")), None).err();
    assert!(matches!(refused, Some(StorehouseError::KeyExists { .. })), "{refused:?}");

    house.add_key(&name, None, Some(60)).unwrap();
    let ends = house.cache("team").unwrap().keys()[1].sign_until().unwrap();
    house.add_key(&name, Some(key("newest")), Some(6000)).unwrap();
    let cache = house.cache("team").unwrap();
    assert_eq!(cache.keys()[2].sign_until(), Some(ends), "a key that was retired lives no longer");
    assert!(key_names(&cache)[1].starts_with("team-"), "made keys carry the cache's name");
    house.retire_key(&name, "old", 0).unwrap();
    assert_eq!(house.cache("team").unwrap().keys().len(), 2);
}

#[test]
fn a_destroyed_cache_is_gone_and_restored_it_is_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    publish(&house.cache("team").unwrap());
    let narinfo = house.cache("team").unwrap().narinfo(hash()).unwrap();
    house.destroy_cache(&name).unwrap();
    drop(house);

    let house = open(dir.path());
    assert!(house.cache("team").is_none());
    assert!(house.caches()[0].destroyed().is_some());
    let changes = CacheChanges { priority: Some(1), ..CacheChanges::default() };
    for refused in [
        house.configure_cache(&name, &changes).err(),
        house.add_key(&name, None, None).err(),
        house.destroy_cache(&name).err(),
    ] {
        assert!(matches!(refused, Some(StorehouseError::NoSuchCache(_))), "{refused:?}");
    }
    let taken = house.create_cache(&name, &CacheSettings::default(), None).err().unwrap();
    assert!(taken.to_string().contains("granary cache restore team"), "{taken}");

    house.restore_cache(&name).unwrap();
    assert_eq!(house.cache("team").unwrap().narinfo(hash()).unwrap(), narinfo);
    let taken = house.create_cache(&name, &CacheSettings::default(), None).err();
    assert!(matches!(taken, Some(StorehouseError::Exists(_))), "{taken:?}");
}

#[test]
fn settings_take_effect_at_once_and_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    let changes = CacheChanges {
        public: Some(true),
        store_dir: Some("/gnu/store".parse().unwrap()),
        priority: Some(7),
        upstream_keys: Some(vec!["elsewhere-1".parse().unwrap()]),
        retention: Some(Some(3600)),
        max_age: Some(Some(7200)),
        max_size: Some(Some(1 << 40)),
    };
    house.configure_cache(&name, &changes).unwrap();
    let check = |cache: Arc<Cache>| {
        assert!(cache.is_public());
        assert_eq!(cache.store_dir().as_str(), "/gnu/store");
        assert_eq!(cache.info(), "StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 7\n");
        assert_eq!(cache.upstream_keys()[0].to_string(), "elsewhere-1");
        assert_eq!((cache.retention(), cache.max_age()), (Some(3600), Some(7200)));
        assert_eq!(cache.max_size(), Some(1 << 40));
    };
    check(house.cache("team").unwrap());
    let created = house.cache("team").unwrap().created();
    drop(house);
    let house = open(dir.path());
    check(house.cache("team").unwrap());
    assert_eq!(house.cache("team").unwrap().created(), created);

    let reset = CacheChanges { retention: Some(None), ..CacheChanges::default() };
    house.configure_cache(&name, &reset).unwrap();
    assert_eq!(house.cache("team").unwrap().retention(), None);
    assert_eq!(house.cache("team").unwrap().max_age(), Some(7200));
    assert_eq!(house.cache("team").unwrap().priority(), 7, "what is not named stays");
    let wrong = CacheChanges { priority: Some(u32::MAX), ..CacheChanges::default() };
    let refused = house.configure_cache(&name, &wrong).err().unwrap();
    assert!(refused.to_string().starts_with("priority: "), "{refused}");
}

#[test]
fn a_path_published_by_a_request_from_before_a_change_is_seen_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    let before = house.cache("team").unwrap();
    house.add_key(&name, Some(key("newer")), None).unwrap();
    let after = house.cache("team").unwrap();
    assert!(after.narinfo(hash()).unwrap().is_none(), "and that is remembered");
    publish(&before);
    assert_eq!(signers(&after), ["newer", "old"]);
    assert_eq!(signers(&before), ["old"]);
    assert_eq!(signers(&after), ["newer", "old"]);
}

#[test]
fn only_a_cache_without_paths_that_nobody_uses_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    let elsewhere: StoreDir = "/gnu/store".parse().unwrap();
    let changes = CacheChanges { store_dir: Some(elsewhere), ..CacheChanges::default() };
    let used = house.cache("team").unwrap();
    let refused = house.configure_cache(&name, &changes).err();
    assert!(matches!(refused, Some(StorehouseError::InUse(_))), "{refused:?}");
    publish(&used);
    drop(used);
    let refused = house.configure_cache(&name, &changes).err();
    assert!(matches!(refused, Some(StorehouseError::HasPaths(_))), "{refused:?}");
    let same = CacheChanges { store_dir: Some(StoreDir::default()), ..CacheChanges::default() };
    house.configure_cache(&name, &same).unwrap();
}

#[test]
fn caches_made_at_the_same_time_share_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (house, name) = (&house, name(&format!("cache-{}", number / 2)));
            scope.spawn(move || {
                let made = house.create_cache(&name, &CacheSettings::default(), None);
                assert!(matches!(made, Ok(_) | Err(StorehouseError::Exists(_))));
            });
        }
    });
    assert_eq!(house.caches().len(), 4);
    publish(&house.cache("cache-0").unwrap());
    for other in ["cache-1", "cache-2", "cache-3"] {
        assert!(house.cache(other).unwrap().narinfo(hash()).unwrap().is_none());
    }
}

#[test]
fn changes_made_at_the_same_time_all_happen() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (house, name) = (&house, &name);
            let key = SigningKey::generate(&format!("k{number}"), [number; 32]).unwrap();
            scope.spawn(move || house.add_key(name, Some(key), None).map(drop).unwrap());
        }
    });
    assert_eq!(house.cache("team").unwrap().keys().len(), 9);
    drop(house);
    assert_eq!(open(dir.path()).cache("team").unwrap().keys().len(), 9);
}

#[test]
fn a_crash_in_the_midst_of_a_rotation_leaves_all_of_it_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (house, name) = house_with_cache(dir.path());
    let packs = dir.path().join("packs");
    let pack = fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let before = fs::metadata(&pack).unwrap().len();
    house.add_key(&name, Some(key("newer")), Some(60)).unwrap();
    let written = fs::read(&pack).unwrap();
    let after = fs::metadata(&pack).unwrap().len();
    assert!(after > before, "the change is in the log when it is acknowledged");

    let mut seen = Vec::new();
    for cut in (before..after).step_by(29).chain([after]) {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("packs")).unwrap();
        let to = copy.path().join("packs").join(pack.file_name().unwrap());
        fs::write(to, &written[..cut as usize]).unwrap();
        fs::copy(dir.path().join("server-key"), copy.path().join("server-key")).unwrap();
        let cache = open(copy.path()).cache("team").unwrap();
        let keys: Vec<(String, bool)> = cache
            .keys()
            .iter()
            .map(|key| (key.public_key().name().to_owned(), key.sign_until().is_some()))
            .collect();
        seen.push(keys);
    }
    let nothing = vec![("old".to_owned(), false)];
    let all = vec![("newer".to_owned(), false), ("old".to_owned(), true)];
    assert_eq!(seen.pop(), Some(all.clone()));
    assert_eq!(seen.first(), Some(&nothing));
    assert!(seen.iter().all(|keys| *keys == nothing || *keys == all), "{seen:?}");
}

#[test]
fn secret_keys_are_not_in_the_packs_nor_in_debug_output() {
    let dir = tempfile::tempdir().unwrap();
    let (house, _) = house_with_cache(dir.path());
    let secret = key("old").to_secret_string();
    let secret = secret.split_once(':').unwrap().1;
    let shown = format!("{:?}", house.cache("team").unwrap().keys());
    assert!(!shown.contains(secret), "{shown}");
    for pack in fs::read_dir(dir.path().join("packs")).unwrap() {
        let bytes = fs::read(pack.unwrap().path()).unwrap();
        let plain = zstd::decode_all(&bytes[..]).unwrap();
        for bytes in [bytes, plain] {
            assert!(!bytes.windows(40).any(|window| window == &secret.as_bytes()[..40]));
        }
    }
}
