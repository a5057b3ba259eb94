//! What goes after its path. NARs that no path is made from: those whose narinfo may still come stay, the
//! others go at once. Logs, debug info and realisations: what they are about is gone.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use castore::{Clock, ManualClock, Options};
use narbridge::cache::{CacheSettings, Deletion, PinRequest};
use narbridge::gc::{GcOptions, GcReport};
use narbridge::retention::Defaults;
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

/// What the path comes from.
const DERIVATION: &str = "1w1fff338fvdw53sqgamddn1b2xgds47-made.drv";
const OTHER_DERIVATION: &str = "2w1fff338fvdw53sqgamddn1b2xgds47-other.drv";

fn house(dir: &Path) -> (Storehouse, Arc<Cache>) {
    house_at(dir, Clock::default())
}

fn house_at(dir: &Path, clock: Clock) -> (Storehouse, Arc<Cache>) {
    let house = Storehouse::open(dir, Options { clock, ..Options::new(&mut |_| ()) }).unwrap();
    let cache = house.create_cache(&"team".parse().unwrap(), &CacheSettings::default(), None);
    (house, cache.unwrap())
}

/// A NAR, as it is and as gzip makes it.
struct Upload {
    nar: Vec<u8>,
    body: Vec<u8>,
    compression: &'static str,
    url: String,
}

impl Upload {
    fn new(contents: &[u8], gzip: bool) -> Self {
        let mut nar = Writer::new(Vec::new());
        nar.file(b"", false, contents.len() as u64, &mut &contents[..]).unwrap();
        let nar = nar.finish().unwrap();
        let (mut body, mut compression) = (nar.clone(), "none");
        if gzip {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&nar).unwrap();
            (body, compression) = (encoder.finish().unwrap(), "gzip");
        }
        let url = format!("{}.nar", sha256(&body).to_nix32());
        Self { nar, body, compression, url }
    }

    fn send(&self, cache: &Cache) {
        cache.upload_nar(self.url.parse().unwrap(), &self.body[..], 1 << 20, None).unwrap();
    }

    fn publish(&self, cache: &Cache) {
        let text = format!(
            "StorePath: {}/{}-made\nURL: nar/{}\nCompression: {}\nNarHash: sha256:{}\n\
             NarSize: {}\nReferences: \nDeriver: {DERIVATION}\n",
            cache.store_dir(),
            hash(),
            self.url,
            self.compression,
            sha256(&self.nar).to_nix32(),
            self.nar.len(),
        );
        cache.publish(hash(), text.as_bytes(), None).unwrap();
    }

    /// By the name it was sent under, and by its own hash.
    fn is_there(&self, cache: &Cache) -> [bool; 2] {
        let own = format!("{}.nar", sha256(&self.nar).to_nix32());
        [&self.url, &own].map(|name| cache.nar(name.parse().unwrap()).unwrap().is_some())
    }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(bytes)))
}

fn hash() -> StorePathHash {
    [7; 20].into()
}

fn delete(cache: &Cache) {
    let wanted = Deletion { paths: vec![hash()], referrers: false, closure: false };
    cache.delete(cache.plan_deletion(&wanted).unwrap()).unwrap();
}

fn collect(house: &Storehouse, grace: Duration, dry_run: bool) -> GcReport {
    let options = GcOptions { grace, dry_run, ..GcOptions::default() };
    house.collect(&options, &mut |_| ()).unwrap().unwrap()
}

#[test]
fn a_nar_waits_for_its_narinfo_however_short_the_grace_period_is() {
    let dir = tempfile::tempdir().unwrap();
    let (house, cache) = house(dir.path());
    let upload = Upload::new(b"awaited", false);
    upload.send(&cache);
    assert_eq!(collect(&house, Duration::ZERO, false).nars, 0);
    upload.publish(&cache);
    delete(&cache);
    // It comes once more, and is awaited once more.
    upload.send(&cache);
    assert_eq!(collect(&house, Duration::ZERO, false).nars, 0);
    upload.publish(&cache);
    assert_eq!(upload.is_there(&cache), [true; 2]);
}

#[test]
fn the_nar_of_a_path_that_was_deleted_goes_with_its_bytes() {
    for gzip in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (house, cache) = house(dir.path());
        let upload = Upload::new(b"published", gzip);
        upload.send(&cache);
        upload.publish(&cache);
        assert_eq!(collect(&house, Duration::ZERO, false).nars, 0, "a path is made from it");
        delete(&cache);
        assert_eq!(collect(&house, Duration::from_secs(3600), false).nars, 0, "it has grace");
        let names = if gzip { 2 } else { 1 };
        assert_eq!(collect(&house, Duration::ZERO, true).nars, names);
        assert_eq!(upload.is_there(&cache), [true; 2], "it was only planned");
        let report = collect(&house, Duration::ZERO, false);
        assert_eq!((report.nars, report.trees), (names, 0), "{report:?}");
        assert_eq!(upload.is_there(&cache), [false; 2]);
        // And again from nothing.
        upload.send(&cache);
        upload.publish(&cache);
        assert_eq!(upload.is_there(&cache), [true; 2]);
    }
}

const QUARTER_OF_AN_HOUR: Duration = Duration::from_secs(15 * 60);

fn keep(cache: &Cache, name: &str, contents: &str) {
    let name = narbridge::cache::FileName::parse(name).unwrap();
    cache.put_file(&name, contents.as_bytes(), "", "").unwrap();
}

fn kept(cache: &Cache, names: &[&str]) -> Vec<bool> {
    let file = |name: &&str| cache.file(&narbridge::cache::FileName::parse(name).unwrap());
    names.iter().map(|name| file(name).unwrap().is_some()).collect()
}

#[test]
fn what_says_something_of_a_path_or_nar_goes_with_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(1_000_000));
    let (house, cache) = house_at(dir.path(), clock.clone().into());
    let upload = Upload::new(b"published", true);
    let realisation = format!(r#"{{"outPath":"{}-made","signatures":[]}}"#, hash());
    let debug_info = format!(r#"{{"archive":"../nar/{}","member":"lib/x"}}"#, upload.url);
    let stray = realisation.replace(&hash().to_string(), &OTHER_DERIVATION[..32]);
    let names = [
        "realisations/sha256:5ed3!out.doi",
        "build-trace-v2/1w1fff338fvdw53sqgamddn1b2xgds47-made.drv/out.doi",
        "debuginfo/5ed3fd4bb2b7",
        "realisations/sha256:6ed3!out.doi",
        "debuginfo/6ed3fd4bb2b7",
        "log/1w1fff338fvdw53sqgamddn1b2xgds47-made.drv",
    ];
    let tell = || {
        for (name, contents) in names.iter().zip([&realisation, &realisation, &debug_info]) {
            keep(&cache, name, contents);
        }
    };
    upload.send(&cache);
    upload.publish(&cache);
    tell();
    keep(&cache, names[3], &stray);
    keep(&cache, names[4], "what says nothing");
    keep(&cache, names[5], "building");
    assert_eq!(collect(&house, Duration::ZERO, false).files, 0, "what it needs may still come");
    clock.advance(QUARTER_OF_AN_HOUR);
    assert_eq!(collect(&house, Duration::from_secs(3600), false).files, 0, "all have grace");
    assert_eq!(collect(&house, Duration::ZERO, true).files, 1);
    assert_eq!(kept(&cache, &names), [true; 6], "it was only planned");
    assert_eq!(collect(&house, Duration::ZERO, false).files, 1);
    assert_eq!(kept(&cache, &names), [true, true, true, false, true, true]);

    delete(&cache);
    assert_eq!(collect(&house, Duration::ZERO, true).files, 3, "its NAR counts as gone, too");
    let report = collect(&house, Duration::ZERO, false);
    assert_eq!((report.files, report.trees), (3, 2), "{report:?}");
    assert_eq!(kept(&cache, &names), [false, false, false, false, true, true]);
    upload.send(&cache);
    upload.publish(&cache);
    tell();
    clock.advance(QUARTER_OF_AN_HOUR);
    assert_eq!(collect(&house, Duration::ZERO, false).files, 0);
    assert_eq!(kept(&cache, &names[..3]), [true; 3], "and again from nothing");
}

#[test]
fn a_log_stays_with_what_came_from_its_derivation_and_else_for_as_long_as_a_path() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(1_000_000));
    let (house, cache) = house_at(dir.path(), clock.clone().into());
    let upload = Upload::new(b"published", false);
    upload.send(&cache);
    upload.publish(&cache);
    let logs = [DERIVATION, OTHER_DERIVATION].map(|name| format!("log/{name}"));
    let logs = [&logs[0][..], &logs[1]];
    logs.iter().for_each(|log| keep(&cache, log, "building"));
    let request = PinRequest {
        path: format!("{}-made", hash()).parse().unwrap(),
        revisions: None,
        until: None,
        with_sources: false,
        created_by: String::new(),
    };
    cache.add_pin(&"release".parse().unwrap(), &request).unwrap();
    clock.advance(QUARTER_OF_AN_HOUR);
    let collect = |retention: Option<u64>| {
        let defaults = Defaults { retention, ..Defaults::default() };
        let options = GcOptions { defaults, grace: Duration::ZERO, ..GcOptions::default() };
        house.collect(&options, &mut |_| ()).unwrap().unwrap().files
    };
    assert_eq!((collect(None), collect(Some(3600))), (0, 0));
    assert_eq!(kept(&cache, &logs), [true; 2], "of a build that failed, perhaps");
    assert_eq!(collect(Some(0)), 1);
    assert_eq!(kept(&cache, &logs), [true, false]);
    cache.remove_pin(&"release".parse().unwrap()).unwrap();
    assert_eq!(collect(Some(0)), 1);
    assert_eq!(kept(&cache, &logs), [false; 2]);
}
