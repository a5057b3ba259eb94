//! Attic's client against Granary, and a real Nix that pulls what was pushed that way.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use granary_e2e::attic::{Attic, info};
use granary_e2e::codec::sha256_nix32;
use granary_e2e::nar::{directory, file, nar, symlink};
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::{now, sign};
use granary_e2e::{Closure, Http, Nix, Server, Version, narinfo, places};
use serde_json::json;

#[test]
fn a_cache_is_made_changed_and_destroyed() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let config = attic.get_config("team");
    assert!(config.get("api_endpoint").is_none(), "clients stay where they logged in");
    let key = config["public_key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("team-"), "{key}");
    let url = format!("{}/team", server.origin());
    assert_eq!(
        config,
        json!({
            "substituter_endpoint": url,
            "public_key": key,
            "is_public": false,
            "store_dir": "/nix/store",
            "priority": 41,
            "upstream_cache_key_names": ["cache.nixos.org-1"],
            "retention_period": "Global",
        })
    );
    let https = "x-forwarded-proto: https\r\nx-forwarded-host: cache.example.org\r\n";
    let proxied = attic.send("GET", "cache-config/team", https, b"").json();
    assert_eq!(proxied["substituter_endpoint"], "https://cache.example.org/team");
    let token = Some(server.token());
    let alias = raw::request(&server.origin(), "GET", "/team/attic-cache-info", token, b"");
    assert_eq!(alias.json(), config);

    // What `attic cache configure` sends: without a word of it, the retention is `Global`.
    let config = attic.configure("team", r#"{"is_public":true,"retention_period":"Global"}"#);
    assert_eq!((&config["is_public"], &config["priority"]), (&json!(true), &json!(41)));
    let public = raw::request(&server.origin(), "GET", "/team/nix-cache-info", None, b"");
    assert_eq!(public.status, 200);
    let config = attic.configure("team", r#"{"is_public":false,"priority":30}"#);
    assert_eq!((&config["is_public"], &config["priority"]), (&json!(false), &json!(30)));
    let private = raw::request(&server.origin(), "GET", "/team/nix-cache-info", None, b"");
    assert_eq!(private.status, 401);
    for (sent, told) in [
        (json!({"Period": 86400}), json!({"Period": 86400})),
        (json!({"Period": 0}), json!({"Period": 0})),
        (json!("Global"), json!("Global")),
    ] {
        let patch = json!({"retention_period": sent}).to_string();
        assert_eq!(attic.configure("team", &patch)["retention_period"], told);
    }

    let before = key;
    let config = attic.configure("team", r#"{"keypair":"Generate","retention_period":"Global"}"#);
    let key = config["public_key"].as_str().unwrap();
    assert_ne!(key, before);
    let keys = raw::request(&server.origin(), "GET", "/_granary/v1/caches/team/keys", token, b"");
    assert_eq!(keys.json(), json!({"keys": [{"public_key": key}]}), "the old one is gone");
    // A key of RFC 8032, test 1.
    let secret = "own-1:nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==";
    let patch = json!({"keypair": {"Keypair": secret}}).to_string();
    let config = attic.configure("team", &patch);
    assert_eq!(config["public_key"], "own-1:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");

    let gone = attic.send("DELETE", "cache-config/team", "", b"");
    assert_eq!((gone.status, &gone.body[..]), (200, ""), "{gone:?}");
    let none = attic.send("GET", "cache-config/team", "", b"");
    assert_eq!((none.status, &none.json()["error"]), (404, &json!("NoSuchCache")));
    server.stop();
}

#[test]
fn upstream_keys_are_names_that_stand_for_the_keys_known() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let token = Some(server.token());
    let full = "other-1:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let body = json!({"upstream_keys": [full]}).to_string();
    let path = "/_granary/v1/caches/team";
    let answer = raw::request(&server.origin(), "PATCH", path, token, body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(attic.get_config("team")["upstream_cache_key_names"], json!(["other-1"]));

    let names = json!(["other-1", "cache.nixos.org-1", "unheard-of-1"]);
    let patch = json!({"upstream_cache_key_names": names}).to_string();
    assert_eq!(attic.configure("team", &patch)["upstream_cache_key_names"], names);
    let kept = raw::request(&server.origin(), "GET", path, token, b"").json();
    let nixos = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    assert_eq!(kept["upstream_keys"], json!([full, nixos, "unheard-of-1"]));
    server.stop();
}

#[test]
fn a_push_asks_sends_and_asks_again() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let mut random = Random::from_environment();
    let (one, other, bare) = (random.hash_part(), random.hash_part(), random.hash_part());
    // Twins, and a file that is cut into chunks.
    let large = random.bytes(3_000_000);
    let first = nar(&directory(&[("a", file(&large, false)), ("b", file(b"text", true))]));
    let second = nar(&directory(&[("a", file(&large, true)), ("c", file(&large, false))]));
    let third = nar(&symlink("nowhere"));

    let all = [&one[..], &other, &bare];
    let mut expected: Vec<String> = all.iter().map(|hash| (*hash).to_owned()).collect();
    let sorted = |mut hashes: Vec<String>| {
        hashes.sort();
        hashes
    };
    expected.sort();
    assert_eq!(sorted(attic.missing("team", &[&all[..], &all[..]].concat())), expected);

    let told = |answer: RawAnswer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        assert!(told["file_size"].as_u64().unwrap() > 0, "{told}");
        (told["kind"].as_str().unwrap().to_owned(), told["frac_deduplicated"].as_f64().unwrap())
    };
    let uploaded = |fraction: f64| ("Uploaded".to_owned(), fraction);
    let deduplicated = ("Deduplicated".to_owned(), 1.0);
    assert_eq!(told(attic.upload(&info("team", &one, &first), &first)), uploaded(0.0));
    assert_eq!(sorted(attic.missing("team", &all)), sorted(vec![other.clone(), bare.clone()]));
    let mut with_reference = info("team", &other, &second);
    with_reference["references"] = json!([format!("{one}-e2e"), format!("{other}-e2e")]);
    assert_eq!(told(attic.upload_with_preamble(&with_reference, &second)), deduplicated);
    assert_eq!(told(attic.upload(&info("team", &bare, &third), &third)), uploaded(0.0));
    assert!(attic.missing("team", &all).is_empty());
    assert_eq!(told(attic.upload(&info("team", &one, &first), &first)), deduplicated);

    let http = Http::with_token(&format!("{}/team", server.origin()), server.token());
    let text = http.get(&format!("{other}.narinfo")).text();
    let served = narinfo::parse(&text);
    assert_eq!(served["StorePath"], format!("/nix/store/{other}-e2e"));
    let mut references = [format!("{one}-e2e"), format!("{other}-e2e")];
    references.sort();
    assert_eq!(served["References"], references.join(" "));
    assert_eq!(http.get(&format!("nar/{}.nar", sha256_nix32(&second))).body, second);
    server.stop();
}

#[test]
fn nobody_learns_what_others_have_stored() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let root = Attic::root(&server);
    root.create("theirs");
    root.create("ours");
    let mut random = Random::from_environment();
    let hash = random.hash_part();
    let secret = nar(&file(&random.bytes(2_000_000), false));
    assert_eq!(root.upload(&info("theirs", &hash, &secret), &secret).status, 200);

    // One who reads a cache of its own has to be told the same as if nobody had the bytes.
    let reader = Attic::with(&server, &[("ours", &["pull", "push"])]);
    assert_eq!(reader.missing("ours", &[&hash]), [&hash[..]]);
    let told = reader.upload(&info("ours", &hash, &secret), &secret).json();
    assert_eq!((&told["kind"], &told["frac_deduplicated"]), (&json!("Uploaded"), &json!(0.0)));

    // One who does not read is told the same always.
    let blind = Attic::with(&server, &[("theirs", &["push"])]);
    let fresh = nar(&file(&random.bytes(2_000_000), false));
    for nar in [&secret, &fresh, &fresh] {
        let hash = random.hash_part();
        assert_eq!(blind.missing("theirs", &[&hash]), [&hash[..]]);
        let told = blind.upload(&info("theirs", &hash, nar), nar).json();
        assert_eq!(told, json!({"kind": "Uploaded"}));
        assert!(blind.missing("theirs", &[&hash]).is_empty(), "its own upload");
    }
    assert_eq!(blind.missing("theirs", &[&hash]), [&hash[..]], "somebody else's");
    server.stop();
}

/// Every second path is sent with a preamble.
fn push_closure(attic: &Attic, cache: &str, closure: &Closure) {
    let base = |path: &str| path.trim_start_matches("/nix/store/").to_owned();
    for (at, path) in closure.paths.iter().enumerate() {
        let real = closure.root.join(path.path.trim_start_matches('/'));
        let dump = Command::new("nix-store").arg("--dump").arg(real).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let mut info = info(cache, path.hash_part(), &dump.stdout);
        info["store_path"] = json!(path.path);
        info["references"] = path.references.iter().map(|path| base(path)).collect();
        let answer = match at % 2 {
            0 => attic.upload(&info, &dump.stdout),
            _ => attic.upload_with_preamble(&info, &dump.stdout),
        };
        assert_eq!(answer.status, 200, "{}: {answer:?}", path.path);
    }
}

#[test]
fn nix_substitutes_what_attic_pushed() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let closure = Closure::tiny();
    push_closure(&attic, "team", &closure);
    let hashes: Vec<&str> = closure.paths.iter().map(|path| path.hash_part()).collect();
    assert!(attic.missing("team", &hashes).is_empty());
    let config = attic.get_config("team");
    let url = config["substituter_endpoint"].as_str().unwrap();
    let key = config["public_key"].as_str().unwrap();
    for version in [Version::V2_8, Version::V2_34] {
        let nix = Nix::with(version, server.token(), key);
        let store = nix.substitute(url, &closure.top);
        nix.assert_same(&store, &closure);
    }
    server.stop();
}

#[test]
fn a_token_that_attic_gave_out_goes_on_working() {
    let data = places::scratch();
    let secret = [42; 64];
    let text = data_encoding::BASE64.encode(&secret);
    let file_of_secret = data.path().join("attic-secret");
    std::fs::write(&file_of_secret, text).unwrap();
    std::fs::set_permissions(&file_of_secret, Permissions::from_mode(0o600)).unwrap();
    let config = "[tokens]\nhs256_secret_files = [\"attic-secret\"]\n";
    std::fs::write(data.path().join("config.toml"), config).unwrap();
    let server = Server::start(data.path());
    // What `atticadm make-token` makes.
    let caches = json!({"alice-*": {"r": 1, "w": 1, "cc": 1, "cr": 1}, "team": {"r": 1}});
    let claims = json!({
        "sub": "alice",
        "exp": now() + 3600,
        "https://jwt.attic.rs/v1": {"caches": caches},
    });
    let alice = Attic::bearing(&server, &sign(&secret, &claims));
    alice.create("alice-ci");
    let (hash, nar) = (Random::from_environment().hash_part(), nar(&file(b"hers", false)));
    assert_eq!(alice.upload(&info("alice-ci", &hash, &nar), &nar).status, 200);
    assert_eq!(alice.configure("alice-ci", r#"{"is_public":true}"#)["is_public"], true);
    let path = format!("/alice-ci/{hash}.narinfo");
    assert_eq!(raw::request(&server.origin(), "GET", &path, None, b"").status, 200);
    assert_eq!(alice.send("DELETE", "cache-config/alice-ci", "", b"").status, 403);
    Attic::root(&server).create("team");
    assert_eq!(alice.get_config("team")["is_public"], false);
    assert_eq!(alice.upload(&info("team", &hash, &nar), &nar).status, 403);
    server.stop();
}
