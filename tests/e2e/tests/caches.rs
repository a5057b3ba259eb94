//! Caches as their owners and users meet them: made, configured, rotated, lost and found.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::mint;
use granary_e2e::upload::Upload;
use granary_e2e::{Closure, Http, Nix, Server, Version, places};
use serde_json::{Value, json};

/// Made with `nix-store --generate-binary-cache-key`.
const SECRET: &str = "test-1:jtn2OJ3ykapqte2fYqPJQLVDb0MH0cJRWnhydm4BsRIXWV7nZHWXlOebyRoRm5gOEDwW4a6zUprC4prD6U4U2g==";
const PUBLIC: &str = "test-1:F1le52R1l5Tnm8kaEZuYDhA8FuGus1KawuKaw+lOFNo=";
const NIXOS: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

fn api(server: &Server, method: &str, path: &str, body: &[u8]) -> RawAnswer {
    let path = format!("/_granary/v1/{path}");
    raw::request(&server.origin(), method, &path, Some(server.token()), body)
}

/// A request that succeeds.
fn done(server: &Server, method: &str, path: &str, body: Value) -> Value {
    let answer = api(server, method, path, body.to_string().as_bytes());
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    assert!(!answer.body.contains("jtn2OJ3ykapqte"), "{method} {path} tells a secret key");
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn cache(server: &Server, name: &str) -> Http {
    Http::with_token(&format!("{}/{name}", server.origin()), server.token())
}

#[test]
fn what_an_owner_decides_holds_at_once_and_after_a_crash() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let made = done(&server, "PUT", "caches/team", json!({"signing_key": SECRET}));
    let usual = json!({
        "name": "team", "public": false, "store_dir": "/nix/store", "priority": 40,
        "upstream_keys": [NIXOS], "public_keys": [PUBLIC], "created": made["created"],
        "permissions": granary_e2e::tokens::PERMISSIONS,
    });
    assert_eq!(made, usual);
    assert_eq!(done(&server, "GET", "caches/team", json!({})), usual);

    let mut random = Random::from_environment();
    let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);
    let team = cache(&server, "team");
    assert!(upload.put_nar(&team).is_success() && upload.put_narinfo(&team).is_success());
    let stranger = Http::anonymous(&format!("{}/team", server.origin()));
    assert_eq!(stranger.get(&upload.narinfo_path()).status, 401);

    let changes = json!({
        "public": true, "priority": 30, "upstream_keys": ["cache.nixos.org-1", "other"],
        "retention": {"seconds": 86400}, "max_age": {"seconds": 172_800}, "max_size": {"bytes": 5000},
    });
    let changed = done(&server, "PATCH", "caches/team", changes);
    assert_eq!(changed["upstream_keys"], json!([NIXOS, "other"]));
    assert_eq!(changed["retention"], 86400);
    assert_eq!((&changed["max_age"], &changed["max_size"]), (&json!(172_800), &json!(5000)));
    let narinfo = stranger.get(&upload.narinfo_path());
    assert_eq!(narinfo.status, 200, "it is public at once");
    assert_eq!(narinfo.text().matches("\nSig: ").count(), 1);
    assert!(stranger.get("nix-cache-info").text().contains("Priority: 30\n"));
    let moved = api(&server, "PATCH", "caches/team", br#"{"store_dir": "/gnu/store"}"#);
    assert_eq!((moved.status, &moved.json()["error"]), (409, &json!("CacheHasPaths")));

    let rotated = done(&server, "POST", "caches/team/keys", json!({"retire_others_after": 3600}));
    let keys = rotated["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1]["public_key"], PUBLIC);
    assert!(keys[0].get("signs_until").is_none() && keys[1]["signs_until"].is_u64());
    let narinfo = stranger.get(&upload.narinfo_path()).text();
    assert_eq!(narinfo.matches("\nSig: ").count(), 2, "both sign at once: {narinfo}");

    let before = done(&server, "GET", "caches/team", json!({}));
    let server = server.restart_after_kill_nine();
    assert_eq!(done(&server, "GET", "caches/team", json!({})), before);
    assert_eq!(done(&server, "GET", "caches/team/keys", json!({})), rotated);
    assert_eq!(stranger.get(&upload.narinfo_path()).text(), narinfo);

    let left = done(&server, "DELETE", "caches/team/keys/test-1", json!({}));
    assert_eq!(left["keys"].as_array().unwrap().len(), 1);
    let narinfo = stranger.get(&upload.narinfo_path()).text();
    assert!(!narinfo.contains("Sig: test-1:"), "{narinfo}");
    server.stop();
}

#[test]
fn what_cannot_be_is_refused_by_its_name() {
    let data = places::scratch();
    let server = Server::start(data.path());
    done(&server, "PUT", "caches/team", json!({"signing_key": SECRET}));
    let own = done(&server, "GET", "caches/default", json!({}));
    let own = own["public_keys"][0].as_str().unwrap().split_once(':').unwrap().0.to_owned();
    let own = format!("caches/default/keys/{own}");
    let long = format!(r#"{{"store_dir": "/{}"}}"#, "x".repeat(2 << 20));
    let mangled = json!({"signing_key": SECRET.replace("IXWV7n", "IXWV7m")}).to_string();
    let cases = [
        ("PUT", "caches/.hidden", "{}", 400, "BadRequest", "name: `.hidden` cannot name a cache"),
        ("PUT", "caches/new", "{", 400, "BadRequest", "the body is not JSON"),
        ("PUT", "caches/new", r#"{"publik": true}"#, 400, "BadRequest", "unknown field `publik`"),
        ("PUT", "caches/new", r#"{"priority": "x"}"#, 400, "BadRequest", "priority: u32 is wanted"),
        ("PUT", "caches/new", r#"{"priority": 4000000000}"#, 400, "BadRequest", "priority: "),
        ("PUT", "caches/new", r#"{"store_dir": "nix"}"#, 400, "BadRequest", "store_dir: "),
        ("PUT", "caches/new", r#"{"retention": 0}"#, 400, "BadRequest", "retention: "),
        ("PUT", "caches/new", r#"{"max_age": 0}"#, 400, "BadRequest", "max_age: "),
        ("PUT", "caches/new", r#"{"max_size": 0}"#, 400, "BadRequest", "max_size: "),
        (
            "PUT",
            "caches/new",
            r#"{"upstream_keys": ["k:!"]}"#,
            400,
            "BadRequest",
            "upstream_keys: `k:!`",
        ),
        (
            "PUT",
            "caches/new",
            r#"{"signing_key": "k:AAAA"}"#,
            400,
            "BadRequest",
            "signing_key: has 3 bytes",
        ),
        ("PUT", "caches/new", &mangled, 400, "BadRequest", "signing_key: "),
        ("PUT", "caches/new", &long, 413, "TooLarge", "the body is longer than"),
        ("PUT", "caches/team", "{}", 409, "CacheExists", "there is a cache called team already"),
        ("POST", "caches/team", "{}", 405, "MethodNotAllowed", "GET, HEAD, PUT, PATCH, DELETE"),
        ("PATCH", "caches/none", "{}", 404, "NoSuchCache", "there is no cache called none"),
        ("DELETE", "caches/team/keys/none", "", 404, "NoSuchKey", "no key called none"),
        ("DELETE", "caches/team/keys/test-1?after=soon", "", 400, "BadRequest", "after: "),
        ("DELETE", own.as_str(), "", 409, "LastKey", "add another one first"),
        ("GET", "unknown", "", 404, "NotFound", "not found"),
    ];
    for (method, path, body, status, error, text) in cases {
        let answer = api(&server, method, path, body.as_bytes());
        let shown = &body[..body.len().min(100)];
        let told = answer.json();
        assert_eq!(told["code"], status, "{method} {path} {shown}: {told}");
        assert_eq!(
            (answer.status, &told["error"]),
            (status, &json!(error)),
            "{method} {path} {shown}"
        );
        let message = told["message"].as_str().unwrap();
        assert!(message.contains(text), "{method} {path} {shown}: {message}");
        assert!(!message.contains("jtn2OJ3ykapqte"), "{message}");
    }
    assert_eq!(api(&server, "GET", "caches/new", b"").status, 404, "nothing of it was made");
    server.stop();
}

#[test]
fn a_destroyed_cache_comes_back_with_all_it_had() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);
    let http = server.http();
    assert!(upload.put_nar(&http).is_success() && upload.put_narinfo(&http).is_success());
    let narinfo = http.get(&upload.narinfo_path()).text();
    done(&server, "DELETE", "caches/default", json!({}));
    assert_eq!(server.anonymous().get(&upload.narinfo_path()).status, 401);
    assert_eq!(upload.put_narinfo(&http).status, 404);
    let taken = api(&server, "PUT", "caches/default", b"{}").json();
    assert_eq!(taken["error"], "CacheDestroyed");
    assert!(taken["message"].as_str().unwrap().contains("granary cache restore default"));

    // The first cache is not made anew, and its absence does not keep the server from starting.
    let server = server.restart();
    let list = done(&server, "GET", "caches?destroyed=1", json!({}));
    assert!(list["caches"][0]["destroyed"].is_u64(), "{list}");
    let restored = done(&server, "POST", "caches/default/restore", json!({}));
    assert!(restored.get("destroyed").is_none(), "{restored}");
    assert_eq!(server.anonymous().get(&upload.narinfo_path()).text(), narinfo);
    server.stop();
}

#[test]
fn clients_that_trust_the_old_key_or_the_new_one_pull_through_a_rotation() {
    let data = places::scratch();
    let server = Server::start(data.path());
    done(&server, "PUT", "caches/team", json!({"signing_key": SECRET}));
    let url = format!("{}/team", server.origin());
    let closure = Closure::tiny();
    let push = mint(data.path(), "ci", &[("team", &["push", "pull"])]);
    let quickly = format!("{url}?compression=zstd");
    Nix::with(Version::V2_34, &push, PUBLIC).copy_to(&quickly, &closure);
    let keys = done(&server, "POST", "caches/team/keys", json!({"retire_others_after": 3600}));
    let new = keys["keys"][0]["public_key"].as_str().unwrap().to_owned();
    let pull = mint(data.path(), "dev", &[("team", &["pull"])]);
    for version in [Version::V2_8, Version::V2_34] {
        for key in [PUBLIC, &new] {
            let puller = Nix::with(version, &pull, key);
            let store = puller.copy_from(&url, &closure.top);
            assert!(store.real(&closure.top).exists(), "{version:?}, {key}");
        }
    }
    server.stop();
}

#[test]
fn neither_a_stale_netrc_nor_a_cache_one_may_not_read_stops_a_build() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let closure = Closure::tiny();
    done(&server, "PUT", "caches/secret", json!({}));
    let quickly = format!("{}?compression=zstd", server.url());
    Nix::of(Version::V2_34, &server).copy_to(&quickly, &closure);
    let substituters = format!("{0}/secret {0}/default", server.origin());
    let elsewhere = mint(data.path(), "dev", &[("elsewhere", &["pull"])]);
    for version in [Version::V2_8, Version::V2_26, Version::V2_34] {
        for token in ["stale", &elsewhere] {
            let puller = Nix::with(version, token, server.public_key());
            let store = puller.substitute(&substituters, &closure.top);
            assert!(store.real(&closure.top).exists(), "{version:?}");
        }
    }
    server.stop();
}
