//! What a pin keeps, and what is told when some of it is not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use castore::{Kind, Options};
use narbridge::cache::CacheSettings;
use narbridge::cache::pins::{MissingPath, Need, PinReport};
use narbridge::cache::{PinError, PinName, PinRequest};
use narbridge::gc::GcOptions;
use narbridge::retention::Defaults;
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath};
use sha2::Digest as _;

fn open_with(dir: &Path, pack_target: u64) -> Storehouse {
    Storehouse::open(dir, Options { pack_target, ..Options::new(&mut |_| ()) }).unwrap()
}

fn open(dir: &Path) -> Storehouse {
    open_with(dir, 1 << 30)
}

fn cache(house: &Storehouse) -> Arc<Cache> {
    let key = SigningKey::generate("team-1", [7; 32]).unwrap();
    let name = "team".parse().unwrap();
    house.create_cache(&name, &CacheSettings::default(), Some(key)).unwrap();
    house.cache("team").unwrap()
}

fn path(number: u8, name: &str) -> StorePath {
    StorePath::new([number; 20].into(), name).unwrap()
}

fn name(text: &str) -> PinName {
    text.parse().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Puts a path of one file into the cache.
fn put(
    cache: &Cache,
    path: &StorePath,
    contents: &str,
    references: &[&StorePath],
    deriver: Option<&StorePath>,
) {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, contents.len() as u64, &mut contents.as_bytes()).unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("nar/{}.nar", nar_hash.to_nix32());
    let info = NarInfo {
        store_path: path.clone(),
        url: &url,
        compression: Some("none"),
        file_hash: None,
        file_size: None,
        nar_hash,
        nar_size: nar.len() as u64,
        references: references.iter().map(|&path| path.clone()).collect(),
        deriver: deriver.cloned(),
        system: None,
        signatures: Vec::new(),
        ca: None,
        unknown: Vec::new(),
        flags: Flags::default(),
    };
    cache.upload_nar(url["nar/".len()..].parse().unwrap(), &nar[..], 1 << 20, None).unwrap();
    let text = info.render(cache.store_dir());
    cache.publish(path.hash(), text.as_bytes(), None).unwrap();
}

/// The text of a derivation with these outputs; the hash is there for one that is fetched.
fn derivation(outputs: &[(&StorePath, &str)]) -> String {
    let dir = StoreDir::default();
    let output = |(number, (path, hash)): (usize, &(&StorePath, &str))| {
        let method = if hash.is_empty() { "" } else { "sha256" };
        format!(r#"("o{number}","{}","{method}","{hash}")"#, path.to_absolute(&dir))
    };
    let outputs: Vec<String> = outputs.iter().enumerate().map(output).collect();
    format!(r#"Derive([{}],[],[],"x86_64-linux","/bin/sh",[],[])"#, outputs.join(","))
}

/// A program, its library, what they were built from, and something else.
struct Release {
    top: StorePath,
    library: StorePath,
    top_drv: StorePath,
    library_drv: StorePath,
    script: StorePath,
    fetch_drv: StorePath,
    headers: StorePath,
    docs: StorePath,
    tarball: StorePath,
    other: StorePath,
}

impl Release {
    fn new() -> Self {
        Self {
            top: path(1, "top"),
            library: path(2, "library"),
            top_drv: path(3, "top.drv"),
            library_drv: path(4, "library.drv"),
            script: path(5, "builder.sh"),
            fetch_drv: path(6, "source.tar.gz.drv"),
            headers: path(7, "library-dev"),
            docs: path(8, "library-doc"),
            tarball: path(9, "source.tar.gz"),
            other: path(20, "other"),
        }
    }

    /// Puts all of it but the docs, which nobody built, and but what is left out.
    fn put(&self, cache: &Cache, without: &[&StorePath]) {
        let put = |path: &StorePath, contents: &str, references: &[&StorePath], deriver| {
            if !without.contains(&path) {
                put(cache, path, contents, references, deriver);
            }
        };
        put(&self.top, "top", &[&self.library, &self.top], Some(&self.top_drv));
        put(&self.library, "library", &[], Some(&self.library_drv));
        let text = derivation(&[(&self.top, "")]);
        let needs = [&self.library_drv, &self.script, &self.fetch_drv];
        put(&self.top_drv, &text, &needs, None);
        let text = derivation(&[(&self.library, ""), (&self.headers, ""), (&self.docs, "")]);
        put(&self.library_drv, &text, &[], None);
        put(&self.script, "script", &[], None);
        put(&self.fetch_drv, &derivation(&[(&self.tarball, "ab12")]), &[], None);
        put(&self.headers, "headers", &[], Some(&self.library_drv));
        put(&self.tarball, "tarball", &[], Some(&self.fetch_drv));
        put(&self.other, "other", &[], None);
    }
}

fn request(path: &StorePath) -> PinRequest {
    let created_by = "alice".to_owned();
    PinRequest { path: path.clone(), revisions: None, until: None, with_sources: false, created_by }
}

fn pin(cache: &Cache, path: &StorePath, with_sources: bool) {
    cache.add_pin(&name("release"), &PinRequest { with_sources, ..request(path) }).unwrap();
}

/// The names of the roots, of those paths that are there.
fn roots(cache: &Cache, now: u64) -> BTreeSet<String> {
    let all = cache.paths(None, 100).unwrap();
    let roots = cache.pinned_roots(now).unwrap();
    let there = all.into_iter().filter(|path| roots.contains(&path.hash()));
    there.map(|path| path.name().to_owned()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn verify(cache: &Cache) -> PinReport {
    cache.verify_pin(&name("release")).unwrap().unwrap()
}

#[test]
fn a_pin_keeps_its_path_and_with_sources_all_that_it_was_built_from() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (cache, release) = (cache(&house), Release::new());
    release.put(&cache, &[]);
    assert_eq!(roots(&cache, now()), names(&[]));
    pin(&cache, &release.top, false);
    assert_eq!(roots(&cache, now()), names(&["top"]));
    pin(&cache, &release.top, true);
    let all = names(&[
        "top",
        "library",
        "top.drv",
        "library.drv",
        "builder.sh",
        "source.tar.gz.drv",
        "library-dev",
        "source.tar.gz",
    ]);
    assert_eq!(roots(&cache, now()), all);

    let other = PinRequest { until: Some(now() + 1000), ..request(&release.other) };
    cache.add_pin(&name("other"), &other).unwrap();
    assert!(roots(&cache, now()).contains("other"));
    assert!(!roots(&cache, now() + 1000).contains("other"), "it has ended");
    assert_eq!(roots(&cache, now() + 1000), all);
    assert!(cache.remove_pin(&name("release")).unwrap());
    assert_eq!(roots(&cache, now()), names(&["other"]));
}

#[test]
fn what_is_called_a_derivation_and_is_none_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (cache, release) = (cache(&house), Release::new());
    release.put(&cache, &[&release.top_drv]);
    put(&cache, &release.top_drv, "Derive(nonsense", &[&release.script], None);
    pin(&cache, &release.top, true);
    let roots = roots(&cache, now());
    assert!(roots.contains("builder.sh") && !roots.contains("source.tar.gz"), "{roots:?}");
}

#[test]
fn pins_outlive_the_server_and_are_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (cache, release) = (cache(&house), Release::new());
    release.put(&cache, &[]);
    pin(&cache, &release.top, true);
    let two = PinRequest { revisions: Some(2), ..request(&release.other) };
    cache.add_pin(&name("release"), &two).unwrap();
    cache.add_pin(&name("a"), &request(&release.library)).unwrap();
    let pins = cache.pins().unwrap();
    drop((cache, house));

    let house = open(dir.path());
    let cache = house.cache("team").unwrap();
    assert_eq!(cache.pins().unwrap(), pins);
    assert_eq!(pins.iter().map(|pin| pin.name.as_str()).collect::<Vec<_>>(), ["a", "release"]);
    let of_release = cache.pin(&name("release")).unwrap().unwrap();
    assert_eq!(of_release, pins[1]);
    let paths: Vec<_> = of_release.revisions.iter().map(|revision| &revision.path).collect();
    assert_eq!(paths, [&release.other, &release.top]);
    assert_eq!(of_release.revisions[0].created_by, "alice");
    assert!(cache.remove_pin(&name("release")).unwrap());
    assert!(!cache.remove_pin(&name("release")).unwrap());
    assert!(cache.pin(&name("release")).unwrap().is_none());
    assert!(cache.verify_pin(&name("release")).unwrap().is_none());
}

#[test]
fn only_what_the_cache_has_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (cache, release) = (cache(&house), Release::new());
    release.put(&cache, &[]);
    for absent in [&release.docs, &path(1, "of-another-name")] {
        let refused = cache.add_pin(&name("release"), &request(absent)).unwrap_err();
        assert!(matches!(refused, PinError::NoSuchPath { .. }), "{refused}");
        assert!(refused.to_string().contains("push it first"), "{refused}");
    }
    assert!(cache.pins().unwrap().is_empty());
}

#[test]
fn pins_that_are_added_at_the_same_time_are_all_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house);
    let paths: Vec<StorePath> = (1..9).map(|number| path(number, "made")).collect();
    paths.iter().for_each(|path| put(&cache, path, "made", &[], None));
    std::thread::scope(|scope| {
        for path in &paths {
            let cache = &cache;
            scope.spawn(move || {
                let request = PinRequest { revisions: Some(8), ..request(path) };
                cache.add_pin(&name("release"), &request).unwrap();
            });
        }
    });
    let pin = cache.pin(&name("release")).unwrap().unwrap();
    let found: BTreeSet<_> = pin.revisions.into_iter().map(|revision| revision.path).collect();
    assert_eq!(found, paths.into_iter().collect());
}

#[test]
fn what_is_missing_is_told_with_who_needs_it() {
    let release = Release::new();
    let report = |without: &[&StorePath], with_sources| {
        let dir = tempfile::tempdir().unwrap();
        let house = open(dir.path());
        let cache = cache(&house);
        release.put(&cache, without);
        pin(&cache, &release.top, with_sources);
        verify(&cache)
    };
    let whole = report(&[], true);
    assert!(whole.whole && whole.whole_with_upstream && whole.missing.is_empty(), "{whole:?}");
    assert_eq!((whole.paths, whole.revisions), (8, 1));
    let plain = report(&[&release.top_drv, &release.tarball], false);
    assert!(plain.whole && plain.paths == 2, "{plain:?}");

    let missing = |path: &StorePath, need| vec![MissingPath { path: path.clone(), need }];
    let of = |path: &StorePath| path.clone();
    let cases = [
        (&release.library, Need::Reference { of: of(&release.top) }, true),
        (&release.script, Need::Reference { of: of(&release.top_drv) }, true),
        (&release.tarball, Need::Source { of: of(&release.fetch_drv) }, true),
        (&release.top_drv, Need::Derivation { of: of(&release.top) }, false),
    ];
    for (path, need, upstream) in cases {
        let found = report(&[path], true);
        assert_eq!(found.missing, missing(path, need), "{path}");
        assert_eq!((found.whole, found.whole_with_upstream), (false, upstream), "{path}");
    }
    // What can be built again need not be there.
    assert!(report(&[&release.headers], true).whole);

    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house);
    release.put(&cache, &[]);
    pin(&cache, &release.other, true);
    let found = verify(&cache);
    assert_eq!(found.missing, missing(&release.other, Need::UnknownDerivation));
    assert!(!found.whole_with_upstream);
}

#[test]
fn rot_in_a_derivation_is_told_and_keeps_the_paths_of_its_cache_from_expiring() {
    let dir = tempfile::tempdir().unwrap();
    let release = Release::new();
    {
        let house = open(dir.path());
        let cache = cache(&house);
        release.put(&cache, &[]);
        pin(&cache, &release.top, true);
    }
    // A small target seals what is there as soon as something is written.
    let house = open_with(dir.path(), 1);
    pin(&house.cache("team").unwrap(), &release.top, true);
    drop(house);
    let house = open(dir.path());
    let text = derivation(&[(&release.tarball, "ab12")]);
    let chunk = castore::Digest::of(text.as_bytes());
    let location = house.store().locate(Kind::Chunk, &chunk).unwrap().unwrap();
    let mut rotten = 0;
    for entry in fs::read_dir(dir.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let at = location.offset as usize;
        if bytes.get(at + 24..at + 56).is_some_and(|digest| digest == chunk.as_bytes()) {
            bytes[at + 64 + 20] ^= 1;
            fs::write(&path, bytes).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);

    let cache = house.cache("team").unwrap();
    let report = verify(&cache);
    let damaged: Vec<_> = report.damaged.iter().map(|damaged| &damaged.path).collect();
    assert_eq!(damaged, [&release.fetch_drv], "{report:?}");
    assert!(!report.whole && !report.whole_with_upstream);
    assert!(cache.pinned_roots(now()).is_err(), "what it made cannot be told");
    let other = "other".parse().unwrap();
    let other = house.create_cache(&other, &CacheSettings::default(), None).unwrap();
    put(&other, &path(77, "unpinned"), "something else", &[], None);
    put(&cache, &path(78, "unpinned"), "something else", &[], None);
    std::thread::sleep(Duration::from_millis(1100));
    let defaults = Defaults { retention: Some(0), ..Defaults::default() };
    let options = GcOptions { defaults, grace: Duration::ZERO, ..GcOptions::default() };
    let report = house.collect(&options, &mut |_| ()).unwrap().unwrap();
    let gone: Vec<_> = report.caches.iter().map(|cache| (&cache.name[..], cache.gone())).collect();
    assert_eq!(gone, [("other", 1)], "that one has nothing to do with it");
    pin(&cache, &release.top, false);
    assert_eq!(roots(&cache, now()), names(&["top"]));
}
