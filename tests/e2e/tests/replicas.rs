//! Two servers on one bucket and one database are one server to whoever uses them: what was said to
//! one holds at the other, at once or within a bound that is named here.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::process::Command;
use std::time::Duration;

use granary_e2e::codec::{self, Compression};
use granary_e2e::protocol::{self, Digest, Publish};
use granary_e2e::pulls::within;
use granary_e2e::random::Random;
use granary_e2e::raw;
use granary_e2e::tokens::mint;
use granary_e2e::upload::Upload;
use granary_e2e::{
    Closure, Cluster, Home, Http, Nginx, Nix, Puller, Replica, Version, nar, narinfo, places,
};
use serde_json::{Value, json};

/// How late a replica may hear of settings and revocations.
const HEARSAY: Duration = Duration::from_secs(2);
/// How old a narinfo that a replica remembers may be.
const NARINFO_AGE: Duration = Duration::from_secs(10);

/// Asks a replica's API.
fn api(replica: &Replica, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (path, body) = (format!("/_granary/v1/{path}"), body.to_string());
    let answer =
        raw::request(&replica.origin(), method, &path, Some(&replica.token()), body.as_bytes());
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

/// Asks for something that succeeds.
fn done(replica: &Replica, method: &str, path: &str, body: Value) -> Value {
    let (status, said) = api(replica, method, path, &body);
    assert!((200..300).contains(&status), "{method} {path}: {status} {said}");
    said
}

fn put(upload: &Upload, nar: &Http, narinfo: &Http) {
    let answer = upload.put_nar(nar);
    assert!(answer.is_success(), "{} {}", answer.status, answer.text());
    let answer = upload.put_narinfo(narinfo);
    assert!(answer.is_success(), "{} {}", answer.status, answer.text());
}

#[test]
fn the_parts_of_a_push_may_go_to_any_replica() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let (to_a, to_b) = (a.http("default"), b.http("default"));
    let pull = |replica: &Replica, hash_part: &str, nar_hash: &str| {
        let puller = Puller::new(&replica.origin(), "default", None).trying(1);
        puller.nar(hash_part, nar_hash).unwrap_or_else(|error| panic!("{error}"));
    };

    // The NAR here, the narinfo there.
    for compression in [Compression::None, Compression::Zstd, Compression::Xz] {
        for (first, second) in [(&to_a, &to_b), (&to_b, &to_a)] {
            let nar = random.nar();
            let upload = Upload::new(&random.hash_part(), &nar, compression);
            put(&upload, first, second);
            for replica in [b, a] {
                pull(replica, &upload.hash_part, &codec::sha256_hex(&nar));
            }
        }
    }

    // Half of the chunks here and half there, published at either.
    for (round, publisher) in [b, a].into_iter().enumerate() {
        let files: Vec<(String, Vec<u8>)> =
            (0..8).map(|n| (format!("file-{n}"), random.bytes(20_000))).collect();
        let folder = Folder::of(&files);
        for (n, (digest, contents)) in folder.chunks.iter().zip(&files).enumerate() {
            let record = protocol::record(digest, &contents.1);
            let replica = if n % 2 == 0 { a } else { b };
            let (status, said) = post(replica, "chunks", &record);
            assert!((200..300).contains(&status), "{}", String::from_utf8_lossy(&said));
        }
        let hash_part = random.hash_part();
        let publish = Publish {
            store_path: format!("{hash_part}-halves-{round}"),
            nar_hash: codec::sha256(&folder.nar),
            nar_size: folder.nar.len() as u64,
            manifest: folder.manifest,
            manifest_chunks: Vec::new(),
        };
        let (status, said) = post(publisher, "paths", &protocol::paths_body(&[publish.encode()]));
        assert_eq!(status, 200);
        let [outcome] = &protocol::outcomes(&said)[..] else { panic!("one outcome") };
        assert_eq!(outcome.outcome, protocol::PUBLISHED, "{outcome:?}");
        for replica in [a, b] {
            pull(replica, &hash_part, &codec::sha256_hex(&folder.nar));
        }
    }

    // A real push, whose requests go to both in turn.
    let nginx = Nginx::before(&[a.port(), b.port()]);
    let closure = Closure::tiny();
    Home::with_token(Version::V2_34, &nginx.origin(), &a.token()).push("default", &closure);
    let requests = nginx.requests();
    for replica in [a, b] {
        let sent = |line: &&String| {
            line.contains("/chunks ") && line.ends_with(&format!("127.0.0.1:{}", replica.port()))
        };
        assert!(requests.iter().any(|line| sent(&line)), "no chunks to {replica:?}: {requests:#?}");
        let nix = Nix::with(Version::V2_26, &replica.token(), &replica.public_key());
        nix.assert_same(&nix.copy_from(&replica.url("default"), &closure.top), &closure);
    }
    cluster.stop();
    cluster.assert_sound();
}

fn post(replica: &Replica, what: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let path = format!("/_granary/v1/caches/default/{what}");
    let answer = raw::request(&replica.origin(), "POST", &path, Some(&replica.token()), body);
    (answer.status, answer.content())
}

/// A folder of files of one chunk each.
struct Folder {
    chunks: Vec<Digest>,
    manifest: Vec<u8>,
    nar: Vec<u8>,
}

impl Folder {
    fn of(files: &[(String, Vec<u8>)]) -> Self {
        let chunks: Vec<Digest> =
            files.iter().map(|(_, contents)| *blake3::hash(contents).as_bytes()).collect();
        let nodes = files.iter().zip(&chunks).map(|((name, contents), digest)| {
            let fields = [
                protocol::bytes(1, name.as_bytes()),
                protocol::bytes(2, digest),
                protocol::number(3, contents.len() as u64),
            ];
            protocol::bytes(2, &fields.concat())
        });
        let directory = nodes.collect::<Vec<_>>().concat();
        let digest = blake3::hash(&directory);
        let root = [protocol::bytes(2, digest.as_bytes()), protocol::number(3, files.len() as u64)];
        let root = protocol::bytes(1, &protocol::bytes(1, &root.concat()));
        let tree = [root, protocol::bytes(2, &directory)].concat();
        let entries: Vec<_> =
            files.iter().map(|(name, contents)| (name, nar::file(contents, false))).collect();
        let nar = nar::nar(&nar::directory(&entries));
        Self { chunks, manifest: protocol::bytes(1, &tree), nar }
    }
}

#[test]
fn a_pushed_path_is_everywhere_at_once_also_where_it_was_just_missed() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    for round in 0..20 {
        let (a, b) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let nar = random.nar();
        let upload = Upload::new(&random.hash_part(), &nar, Compression::None);
        let missed = b.http("default");
        assert_eq!(missed.get(&upload.narinfo_path()).status, 404);
        assert_eq!(missed.get(&upload.info.url).status, 404);
        put(&upload, &a.http("default"), &a.http("default"));
        let narinfo = missed.get(&upload.narinfo_path());
        assert_eq!(narinfo.status, 200, "round {round}: {}", narinfo.text());
        let puller = Puller::new(&b.origin(), "default", None).trying(1);
        puller.nar(&upload.hash_part, &codec::sha256_hex(&nar)).expect("it is there");
    }
    cluster.stop();
}

#[test]
fn a_path_that_is_published_anew_is_the_new_one_everywhere_after_a_bounded_time() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let hash_part = random.hash_part();
    let nar_hash = |replica: &Replica| {
        let text = replica.http("default").get(&format!("{hash_part}.narinfo")).text();
        let fields = narinfo::parse(&text);
        codec::nix32_to_hex(fields["NarHash"].strip_prefix("sha256:").expect("sha256:"))
    };
    for round in 0..3 {
        let nar = random.nar();
        let upload = Upload::new(&hash_part, &nar, Compression::Zstd);
        put(&upload, &a.http("default"), &a.http("default"));
        let new = codec::sha256_hex(&nar);
        assert_eq!(nar_hash(a), new, "round {round}: where it was published it is at once");
        let age = within(NARINFO_AGE, "B has the new one", || nar_hash(b) == new);
        println!("round {round}: B had the old one for another {age:?}");
        // And it does not come back.
        for _ in 0..20 {
            assert_eq!((nar_hash(a), nar_hash(b)), (new.clone(), new.clone()), "round {round}");
        }
        let puller = Puller::new(&b.origin(), "default", None).trying(1);
        puller.nar(&hash_part, &new).expect("its NAR is there, too");
    }
    cluster.stop();
}

#[test]
fn what_an_owner_decides_at_one_replica_holds_at_the_other() {
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let within = |what: &str, so: &mut dyn FnMut() -> bool| {
        println!("{what}: {:?}", within(HEARSAY, what, so));
    };
    for (name, (a, b)) in [("here", (a, b)), ("there", (b, a))] {
        let path = format!("caches/{name}");
        // It is asked for before it is there.
        assert_eq!(api(b, "GET", &path, &json!({})).0, 404);
        let made = done(a, "PUT", &path, json!({"priority": 31}));
        within("a cache is there", &mut || api(b, "GET", &path, &json!({})) == (200, made.clone()));

        let mut random = Random::from_environment();
        let nar = random.nar();
        let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
        put(&upload, &b.http(name), &b.http(name));
        let stranger = |replica: &Replica| {
            Http::anonymous(&replica.url(name)).get(&upload.narinfo_path()).status
        };
        assert_eq!((stranger(a), stranger(b)), (401, 401));
        done(a, "PATCH", &path, json!({"public": true, "priority": 29}));
        assert_eq!(stranger(a), 200);
        within("it is public", &mut || stranger(b) == 200);
        within("its priority", &mut || {
            let info = Http::anonymous(&b.url(name)).get("nix-cache-info");
            info.text().contains("Priority: 29\n")
        });

        let keys = done(a, "POST", &format!("{path}/keys"), json!({"retire_others_after": 3600}));
        assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
        within("both keys sign", &mut || {
            let narinfo = b.http(name).get(&upload.narinfo_path()).text();
            narinfo.matches("\nSig: ").count() == 2
        });

        done(a, "DELETE", &path, json!({}));
        assert_eq!(stranger(a), 401);
        within("it is destroyed", &mut || stranger(b) == 401);
        assert_eq!(upload.put_narinfo(&b.http(name)).status, 404);
        done(a, "POST", &format!("{path}/restore"), json!({}));
        within("it is back", &mut || stranger(b) == 200);
    }
    cluster.stop();
}

#[test]
fn a_token_revoked_at_one_replica_is_refused_by_the_other() {
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let whoami = |replica: &Replica, token: &str| {
        Http::with_token(&replica.origin(), token).get("_granary/v1/whoami").status
    };
    let [first, second] = ["alice", "bob"].map(|who| mint(a.data(), who, &[("*", &["pull"])]));
    for (subject, token, (a, b)) in [("alice", &first, (a, b)), ("bob", &second, (b, a))] {
        assert_eq!((whoami(a, token), whoami(b, token)), (200, 200));
        let revoked = Command::new(places::granary())
            .args(["token", "revoke", "--server", &a.origin(), "--subject", subject])
            .env("GRANARY_TOKEN", a.token())
            .output()
            .expect("granary runs");
        assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
        assert_eq!(whoami(a, token), 401);
        let late = within(HEARSAY, "it is refused", || whoami(b, token) == 401);
        println!("{subject}: refused by the other after {late:?}");
    }
    // One that comes later knows it from the beginning.
    cluster.add(&[]);
    let third = &cluster.replicas[2];
    assert_eq!((whoami(third, &first), whoami(third, &second)), (401, 401));
    assert_eq!(whoami(third, &third.token()), 200);
    cluster.stop();
}
