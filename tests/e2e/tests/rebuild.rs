//! The index is lost and made anew from the bucket: everything is there again, in every cache.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::fs;
use std::path::Path;

use granary_e2e::backing;
use granary_e2e::codec::{self, Compression};
use granary_e2e::random::Random;
use granary_e2e::raw;
use granary_e2e::tokens;
use granary_e2e::upload::Upload;
use granary_e2e::{Closure, Cluster, Home, Http, Nix, Puller, Replica, Version};
use serde_json::{Value, json};

const CACHES: [&str; 3] = ["default", "team", "gone"];
const UPLOADS: usize = 30;

/// What a server was told, to be compared with what it says later.
struct Before {
    closure: Closure,
    /// Cache, hash part, SHA-256 of the NAR.
    uploads: Vec<(&'static str, String, String)>,
    narinfos: Vec<(String, String)>,
    settings: Vec<(String, Value)>,
    revoked: String,
    valid: String,
    public_key: String,
}

fn api(replica: &Replica, method: &str, path: &str, body: Value) -> Value {
    let (path, body) = (format!("/_granary/v1/{path}"), body.to_string());
    let token = replica.token();
    let answer = raw::request(&replica.origin(), method, &path, Some(&token), body.as_bytes());
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn settings(replica: &Replica) -> Vec<(String, Value)> {
    let mut all = vec!["caches?destroyed=1".to_owned(), "revocations".to_owned()];
    all.extend(CACHES[..2].iter().map(|cache| format!("caches/{cache}")));
    all.push("caches/team/keys".to_owned());
    all.into_iter().map(|path| (path.clone(), api(replica, "GET", &path, json!({})))).collect()
}

fn whoami(replica: &Replica, token: &str) -> u16 {
    Http::with_token(&replica.origin(), token).get("_granary/v1/whoami").status
}

/// Pushes, configures, rotates, destroys, revokes.
fn live(replica: &Replica, random: &mut Random) -> Before {
    api(replica, "PUT", "caches/team", json!({"priority": 27}));
    api(replica, "PUT", "caches/gone", json!({"public": true}));
    let closure = Closure::tiny();
    let home = Home::with_token(Version::V2_34, &replica.origin(), &replica.token());
    home.push("default", &closure);
    home.push("team", &closure.of_package("bash"));
    let uploads = (0..UPLOADS).map(|number| {
        let (cache, nar) = (CACHES[number % 3], random.nar());
        let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
        let http = replica.http(cache);
        assert!(upload.put_nar(&http).is_success() && upload.put_narinfo(&http).is_success());
        (cache, upload.hash_part, codec::sha256_hex(&nar))
    });
    let mut uploads: Vec<_> = uploads.collect();
    let of_closure = |path: &granary_e2e::closure::StorePath| {
        ("default", path.hash_part().to_owned(), path.nar_hash.clone())
    };
    uploads.extend(closure.paths.iter().map(of_closure));
    api(replica, "PATCH", "caches/team", json!({"public": true, "retention": {"seconds": 86400}}));
    api(replica, "POST", "caches/team/keys", json!({"retire_others_after": 3600}));
    api(replica, "DELETE", "caches/gone", json!({}));
    let [revoked, valid] = ["mallory", "alice"].map(|who| {
        let mut claims = tokens::claims(who, &[("*", &["pull"])]);
        // In another second than the revocation.
        claims["iat"] = json!(tokens::now() - 10);
        tokens::sign(&tokens::secret(replica.data()), &claims)
    });
    api(replica, "POST", "revocations", json!({"subject": "mallory"}));
    assert_eq!((whoami(replica, &revoked), whoami(replica, &valid)), (401, 200));
    let narinfos = uploads.iter().filter(|(cache, ..)| *cache != "gone").map(|(cache, hash, _)| {
        let path = format!("{cache}/{hash}.narinfo");
        let narinfo = Http::with_token(&replica.origin(), &replica.token()).get(&path);
        assert_eq!(narinfo.status, 200, "{path}");
        (path, narinfo.text())
    });
    let (narinfos, public_key) = (narinfos.collect(), replica.public_key());
    let settings = settings(replica);
    Before { closure, uploads, narinfos, settings, revoked, valid, public_key }
}

/// All of it is there again.
fn compare(replica: &Replica, before: &Before) {
    for ((path, now), (_, then)) in settings(replica).iter().zip(&before.settings) {
        assert_eq!(now, then, "{path}");
    }
    assert_eq!((whoami(replica, &before.revoked), whoami(replica, &before.valid)), (401, 200));
    let http = Http::with_token(&replica.origin(), &replica.token());
    for (path, then) in &before.narinfos {
        assert_eq!(&http.get(path).text(), then, "{path}");
    }
    api(replica, "POST", "caches/gone/restore", json!({}));
    for (cache, hash_part, nar_hash) in &before.uploads {
        let puller = Puller::new(&replica.origin(), cache, Some(&replica.token())).trying(1);
        puller.nar(hash_part, nar_hash).unwrap_or_else(|lost| panic!("{cache}: {lost}"));
    }
    assert_eq!(replica.public_key(), before.public_key);
    let nix = Nix::with(Version::V2_34, &replica.token(), &before.public_key);
    nix.verify(&replica.url("default"), &before.closure.top);
    // It takes something new, too: sequence numbers go on where they were.
    let mut random = Random::from_environment();
    let nar = random.nar();
    let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
    let http = replica.http("team");
    assert!(upload.put_nar(&http).is_success() && upload.put_narinfo(&http).is_success());
    assert_eq!(http.get(&upload.narinfo_path()).status, 200);
}

/// What a lost index costs is told: a line for a log, since nobody looks at a bar here.
fn assert_told(said: &str) {
    println!("{said}");
    let line = said.lines().find(|line| line.starts_with("rebuilt the index of "));
    let line = line.unwrap_or_else(|| panic!("it does not say what it did: {said}"));
    let rate = line.rsplit_once('(').and_then(|(_, rate)| rate.strip_suffix(" s per GB)"));
    let rate = rate.and_then(|rate| rate.parse::<f64>().ok());
    assert!(rate.is_some_and(|rate| rate > 0.0), "{line}");
    assert!(!said.contains('\r') && !said.contains('\u{1b}'), "a bar in a pipe: {said:?}");
}

/// It does not serve an empty store as if nothing had ever been there.
fn assert_refuses_to_start(data: &Path) {
    let output = backing::granary(data, &["serve", "--listen", "127.0.0.1:0"]).output();
    let output = output.expect("granary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it serves a store without its index: {said}");
    assert!(said.contains("fsck --rebuild"), "it does not say what to do: {said}");
}

#[test]
fn a_lost_database_is_made_anew_from_the_bucket() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let before = live(&cluster.replicas[0], &mut random);
    cluster.stop();
    let data = cluster.replicas[0].data().to_owned();
    backing::empty_database(cluster.index());
    assert_refuses_to_start(&data);
    assert_told(&backing::rebuild_index(&data));
    for replica in &mut cluster.replicas {
        replica.start();
    }
    compare(&cluster.replicas[0], &before);
    // The other had its own memory of everything, which is of another time.
    let other = &cluster.replicas[1];
    for (cache, hash_part, nar_hash) in &before.uploads {
        let puller = Puller::new(&other.origin(), cache, Some(&other.token())).trying(1);
        puller.nar(hash_part, nar_hash).unwrap_or_else(|lost| panic!("{cache}: {lost}"));
    }
    cluster.stop();

    // A machine that has never been one of them, and a database that it has never seen.
    cluster.use_index(Some(&cluster.postgres.database("another")));
    let data = cluster.place("elsewhere");
    assert_refuses_to_start(&data);
    assert_told(&backing::rebuild_index(&data));
    cluster.assert_sound();
}

#[test]
fn a_lost_index_of_ones_own_is_made_anew_from_the_bucket() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::without_servers();
    cluster.use_index(None);
    cluster.add(&[]);
    let before = live(&cluster.replicas[0], &mut random);
    cluster.stop();
    let data = cluster.replicas[0].data().to_owned();
    fs::remove_dir_all(data.join("index")).expect("the index goes");
    assert_told(&backing::rebuild_index(&data));
    cluster.replicas[0].start();
    compare(&cluster.replicas[0], &before);
    cluster.stop();

    // All that is left is the bucket and the key.
    let data = cluster.place("elsewhere");
    assert_refuses_to_start(&data);
    assert_told(&backing::rebuild_index(&data));
    granary_e2e::replicas::assert_sound(&data);
}
