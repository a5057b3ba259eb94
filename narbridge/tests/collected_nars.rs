//! NARs that no path is made from: those whose narinfo may still come stay, the others go at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use castore::Options;
use narbridge::cache::{CacheSettings, Deletion};
use narbridge::gc::{GcOptions, GcReport};
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

fn house(dir: &Path) -> (Storehouse, Arc<Cache>) {
    let house = Storehouse::open(dir, Options::new(&mut |_| ())).unwrap();
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
             NarSize: {}\nReferences: \n",
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
