//! Large NARs that clients fetch from the object store by themselves.
//!
//! The tests choose their own store and index, whatever the environment says.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::process::Command;

use granary_e2e::background::eventually;
use granary_e2e::codec::{self, Compression};
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Backing, Combination, Index, Nix, Server, Store, Version, nar, narinfo, places};

const S3_AND_SLED: Combination = Combination { store: Store::S3, index: Index::Sled };

/// Status and Location of a GET that goes nowhere.
fn asked(url: &str) -> (u16, String) {
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", url])
        .output()
        .expect("curl runs");
    let said = String::from_utf8(curl.stdout).expect("UTF-8");
    let (status, location) = said.split_once(' ').expect("two words");
    (status.parse().expect("a status"), location.to_owned())
}

/// The bytes of a GET without any credentials.
fn bytes(url: &str, range: Option<&str>) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["-sf", url]);
    if let Some(range) = range {
        curl.args(["-r", range]);
    }
    let curl = curl.output().expect("curl runs");
    assert!(curl.status.success(), "{url}: {}", curl.status);
    curl.stdout
}

#[test]
fn a_large_nar_is_fetched_from_the_bucket_and_is_the_same_byte_for_byte() {
    let data = places::scratch();
    Backing::on(data.path(), S3_AND_SLED);
    let server = Server::start_with(data.path(), &["--redirect-nars-from", "1MiB"]);
    let http = server.http();
    let mut random = Random::from_environment();
    let push = |random: &mut Random, size: usize| {
        let bytes = nar::nar(&nar::file(&random.bytes(size), false));
        let upload = Upload::new(&random.hash_part(), &bytes, Compression::Zstd);
        assert_eq!(upload.put_nar(&http).status, 201);
        assert_eq!(upload.put_narinfo(&http).status, 201);
        let narinfo = http.get(&upload.narinfo_path()).text();
        let url = format!("{}/{}", server.url(), narinfo::parse(&narinfo)["URL"]);
        (bytes, upload, url)
    };
    let (small, _, small_url) = push(&mut random, 300_000);
    let (large, upload, url) = push(&mut random, 5_000_000);

    let name = url.strip_prefix(&format!("{}/", server.url())).expect("its own");
    let sent = http.get(name).body;
    assert_eq!(zstd::stream::decode_all(&sent[..]).expect("it is whole"), large);
    let mut location = String::new();
    eventually("the copy is there", || {
        let (status, to) = asked(&url);
        location = to;
        status == 307
    });
    assert!(!location.starts_with(&server.origin()), "{location}");
    assert_eq!(bytes(&location, None), sent, "the copy is another");
    assert_eq!(bytes(&location, Some("1000000-2000000")), sent[1_000_000..=2_000_000]);
    // A HEAD is answered on the spot, and what is small is sent on the spot.
    assert_eq!(http.head(name).status, 200);
    assert_eq!(asked(&small_url), (200, String::new()));
    assert_eq!(zstd::stream::decode_all(&bytes(&small_url, None)[..]).expect("whole"), small);

    for version in [Version::V2_8, Version::V2_26, Version::V2_34] {
        let nix = Nix::of(version, &server);
        let path = &upload.info.store_path;
        let store = nix.copy_from(&server.url(), path);
        let (hash, _) = nix.nar_of(&store.real(path));
        assert_eq!(hash, codec::sha256_hex(&large), "{version:?}");
    }

    // A copy that somebody removed is made again, and nobody goes without.
    let objects = Backing::of(data.path()).objects().expect("a bucket").join("nars");
    std::fs::remove_dir_all(&objects).expect("the copies");
    let server = server.restart();
    let url = url.replace(&url[..url.find("/default").expect("its cache")], &server.origin());
    assert_eq!(zstd::stream::decode_all(&bytes(&url, None)[..]).expect("whole"), large);
    eventually("the copy is there again", || asked(&url).0 == 307);
}
