//! Attic's client against Granary: its requests, written down as it sends them, and what it reads of
//! the answers. Then a real Nix pulls what was pushed that way.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use granary_e2e::codec::{sha256_hex, sha256_nix32};
use granary_e2e::nar::{directory, file, nar, symlink};
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::{PERMISSIONS, mint};
use granary_e2e::{Closure, Nix, Server, Version, narinfo, places};
use serde_json::{Value, json};

/// Requests as an attic client sends them with one token.
struct Attic<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Attic<'a> {
    fn root(server: &'a Server) -> Self {
        Self { server, token: server.token().to_owned() }
    }

    fn with(server: &'a Server, caches: &[(&str, &[&str])]) -> Self {
        Self { server, token: mint(server.data(), "alice", caches) }
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let host = self.server.origin().replace("http://", "");
        let head = format!(
            "{method} /_api/v1/{path} HTTP/1.1\r\n\
             user-agent: Attic/attic-client (nixpkgs)\r\n\
             authorization: bearer {}\r\n\
             {headers}accept: */*\r\nhost: {host}\r\nconnection: close\r\n\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> RawAnswer {
        raw::send(&self.server.origin(), &self.request(method, path, headers, body))
    }

    /// A request with a body of JSON.
    fn json(&self, method: &str, path: &str, body: &str) -> RawAnswer {
        let length = body.len();
        let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        self.send(method, path, &headers, body.as_bytes())
    }

    fn get_config(&self, cache: &str) -> Value {
        let answer = self.send("GET", &format!("cache-config/{cache}"), "", b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Changes a cache, and returns what it is then.
    fn configure(&self, cache: &str, patch: &str) -> Value {
        let answer = self.json("PATCH", &format!("cache-config/{cache}"), patch);
        assert_eq!((answer.status, &answer.body[..]), (200, ""), "{answer:?}");
        self.get_config(cache)
    }

    fn create(&self, cache: &str) {
        // What `attic cache create <cache>` sends.
        let body = r#"{"keypair":"Generate","is_public":false,"store_dir":"/nix/store","priority":41,"upstream_cache_key_names":["cache.nixos.org-1"]}"#;
        let answer = self.json("POST", &format!("cache-config/{cache}"), body);
        assert_eq!((answer.status, &answer.body[..]), (200, ""), "{answer:?}");
    }

    fn missing(&self, cache: &str, hashes: &[&str]) -> Vec<String> {
        let body = json!({"cache": cache, "store_path_hashes": hashes}).to_string();
        let answer = self.json("POST", "get-missing-paths", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()["missing_paths"].clone()).unwrap()
    }

    /// Sends a NAR as a stream of unknown length, in pieces.
    fn stream(&self, headers: &str, pieces: &[&[u8]]) -> RawAnswer {
        let mut body = Vec::new();
        for piece in pieces.iter().flat_map(|piece| piece.chunks(100_000)) {
            body.extend(format!("{:X}\r\n", piece.len()).bytes());
            body.extend([piece, b"\r\n"].concat());
        }
        body.extend(b"0\r\n\r\n");
        self.send("PUT", "upload-path", &format!("{headers}transfer-encoding: chunked\r\n"), &body)
    }

    fn upload(&self, info: &Value, nar: &[u8]) -> RawAnswer {
        self.stream(&format!("x-attic-nar-info: {info}\r\n"), &[nar])
    }

    fn upload_with_preamble(&self, info: &Value, nar: &[u8]) -> RawAnswer {
        let info = info.to_string();
        let headers = format!("x-attic-nar-info-preamble-size: {}\r\n", info.len());
        self.stream(&headers, &[info.as_bytes(), nar])
    }
}

fn info(cache: &str, hash: &str, nar: &[u8]) -> Value {
    json!({
        "cache": cache,
        "store_path_hash": hash,
        "store_path": format!("/nix/store/{hash}-e2e"),
        "references": [],
        "system": null,
        "deriver": null,
        "sigs": [],
        "ca": null,
        "nar_hash": format!("sha256:{}", sha256_hex(nar)),
        "nar_size": nar.len(),
    })
}

#[track_caller]
fn assert_refused(answer: &RawAnswer, code: u16, error: &str, message: &str) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.status, code, "{answer:?}");
    let expected = json!({"code": code, "error": error, "message": message});
    assert_eq!(answer.json(), expected);
}

#[test]
fn a_cache_is_made_changed_and_destroyed() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let config = attic.get_config("team");
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
    assert_refused(&none, 404, "NoSuchCache", "there is no cache called team");
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

    let http = granary_e2e::Http::with_token(&format!("{}/team", server.origin()), server.token());
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

#[test]
fn what_is_not_as_it_was_said_to_be_is_refused_and_leaves_no_path() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let attic = Attic::root(&server);
    attic.create("team");
    let mut random = Random::from_environment();
    let hash = random.hash_part();
    let nar = nar(&file(&random.bytes(500_000), false));
    let (right, size) = (info("team", &hash, &nar), nar.len());
    let with = |field: &str, value: Value| {
        let mut info = right.clone();
        info[field] = value;
        info
    };
    let refused = |answer: RawAnswer, code: u16, error: &str, message: &str| {
        assert_refused(&answer, code, error, message);
        assert_eq!(attic.missing("team", &[&hash]), [&hash[..]], "{message}");
    };
    let bad = |answer: RawAnswer, message: &str| refused(answer, 400, "RequestError", message);

    let zeros = "0".repeat(52);
    let found = sha256_nix32(&nar);
    let text = format!("NarHash: sha256:{zeros} is claimed, and sha256:{found} came");
    bad(attic.upload(&with("nar_hash", json!(format!("sha256:{zeros}"))), &nar), &text);
    let text = format!("NarSize: {} is claimed, and {size} came", size + 1);
    bad(attic.upload(&with("nar_size", json!(size + 1)), &nar), &text);
    let text = format!("NarSize: {} is claimed, and more came", size - 1);
    bad(attic.upload(&with("nar_size", json!(size - 1)), &nar), &text);
    let text = format!("store_path_hash: it is not that of {hash}-e2e");
    bad(attic.upload(&with("store_path_hash", json!(random.hash_part())), &nar), &text);
    let answer = attic.upload(&right, &nar[..size / 2]);
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("RequestError")));
    let answer = attic.upload(&right, &[&nar[..], b"more"].concat());
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("RequestError")));
    for (field, value) in [
        ("store_path", json!(format!("/gnu/store/{hash}-e2e"))),
        ("references", json!(["no store path"])),
        ("sigs", json!(["no signature"])),
        ("ca", json!("fixed:r:sha256:nothing")),
        ("deriver", json!("nobody")),
        ("nar_hash", json!("sha256:short")),
    ] {
        let answer = attic.upload(&with(field, value), &nar);
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("RequestError")));
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
        assert_eq!(attic.missing("team", &[&hash]), [&hash[..]], "{message}");
    }

    let size_of = |size: &str| format!("x-attic-nar-info-preamble-size: {size}\r\n");
    let preamble = right.to_string();
    let whole = [preamble.as_bytes(), &nar].concat();
    for size in ["many", "-1", "1.5", ""] {
        let text = "x-attic-nar-info-preamble-size: a number of bytes is wanted";
        bad(attic.stream(&size_of(size), &[&whole]), text);
    }
    let text = "x-attic-nar-info-preamble-size: at most 1048576 bytes are taken";
    for size in ["1048577", "18446744073709551615"] {
        refused(attic.stream(&size_of(size), &[&whole]), 413, "TooLarge", text);
    }
    let text = format!("the body ends after {} of 1048576 bytes", whole.len());
    bad(attic.stream(&size_of("1048576"), &[&whole]), &text);
    let answer = attic.stream(&size_of(&(preamble.len() - 1).to_string()), &[&whole]);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, message.starts_with("x-attic-nar-info: ")), (400, true));
    let answer = attic.stream(&size_of(&(preamble.len() + 1).to_string()), &[&whole]);
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("RequestError")));
    assert_eq!(attic.missing("team", &[&hash]), [&hash[..]]);
    let text = "one of the headers x-attic-nar-info and x-attic-nar-info-preamble-size is wanted";
    bad(attic.stream("", &[&nar]), text);
    let long = format!("x-attic-nar-info: {}\r\n", "x".repeat(200_000));
    let text = "x-attic-nar-info: it is longer than 131072 bytes: send a preamble";
    refused(attic.stream(&long, &[&nar]), 413, "TooLarge", text);

    // Hung up in the middle of the body.
    let headers = format!("x-attic-nar-info: {right}\r\ncontent-length: {size}\r\n");
    let cut = attic.request("PUT", "upload-path", &headers, &nar[..size / 2]);
    let mut stream = TcpStream::connect(server.origin().trim_start_matches("http://")).unwrap();
    stream.write_all(&cut).unwrap();
    drop(stream);
    assert_eq!(attic.missing("team", &[&hash]), [&hash[..]]);

    assert_eq!(attic.upload(&right, &nar).status, 200, "the right one is taken all the same");
    assert!(attic.missing("team", &[&hash]).is_empty());
    server.stop();
}

#[test]
fn refusals_are_as_the_client_reads_them() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let root = Attic::root(&server);
    root.create("team");
    let nothing = nar(&file(b"", false));
    let missing = |cache: &str| json!({"cache": cache, "store_path_hashes": []}).to_string();

    // The cache exists, or once did.
    let body = r#"{"keypair":"Generate","is_public":false,"store_dir":"/nix/store","priority":41,"upstream_cache_key_names":[]}"#;
    let again = root.json("POST", "cache-config/team", body);
    let text = "there is a cache called team already";
    assert_refused(&again, 400, "CacheAlreadyExists", text);
    root.create("old");
    assert_eq!(root.send("DELETE", "cache-config/old", "", b"").status, 200);
    let again = root.json("POST", "cache-config/old", body);
    assert_eq!((again.status, &again.json()["error"]), (400, &json!("CacheAlreadyExists")));

    // There is no such cache.
    let text = "there is no cache called none";
    let hash = Random::from_environment().hash_part();
    for answer in [
        root.send("GET", "cache-config/none", "", b""),
        root.json("PATCH", "cache-config/none", r#"{"is_public":true}"#),
        root.send("DELETE", "cache-config/none", "", b""),
        root.json("POST", "get-missing-paths", &missing("none")),
        root.upload(&info("none", &hash, &nothing), &nothing),
    ] {
        assert_refused(&answer, 404, "NoSuchCache", text);
    }

    // A token for something else, and none that is good.
    let elsewhere = Attic::with(&server, &[("elsewhere", &PERMISSIONS)]);
    let forged = Attic { server: &server, token: "nonsense".to_owned() };
    for (asker, code, error, text) in [
        (elsewhere, 403, "AccessError", "the token does not permit this on that cache"),
        (forged, 401, "Unauthorized", "the token is not valid here"),
    ] {
        for answer in [
            asker.send("GET", "cache-config/team", "", b""),
            asker.json("POST", "cache-config/team", body),
            asker.json("PATCH", "cache-config/team", r#"{"is_public":true}"#),
            asker.send("DELETE", "cache-config/team", "", b""),
            asker.json("POST", "get-missing-paths", &missing("team")),
            asker.upload(&info("team", &hash, &nothing), &nothing),
            asker.upload_with_preamble(&info("team", &hash, &nothing), &nothing),
        ] {
            assert_refused(&answer, code, error, text);
        }
    }

    // Requests that say nothing, or nonsense. Secrets are not repeated.
    let text = "nothing that can be changed is named";
    assert_refused(&root.json("PATCH", "cache-config/team", "{}"), 400, "RequestError", text);
    let text = "keypair: `Generate` or `Keypair` is wanted here";
    let answer = root.json("PATCH", "cache-config/team", r#"{"keypair":"k:SECRET"}"#);
    assert_refused(&answer, 400, "RequestError", text);
    let answer = root.json("PATCH", "cache-config/team", r#"{"keypair":{"Keypair":"k:SECRET"}}"#);
    assert_eq!((answer.status, answer.body.contains("SECRET")), (400, false), "{answer:?}");
    let text = "priority: u32 is wanted here";
    let answer = root.json("PATCH", "cache-config/team", r#"{"priority":-1}"#);
    assert_refused(&answer, 400, "RequestError", text);
    let answer = root.json("POST", "get-missing-paths", "{}");
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("RequestError")));
    let none = root.send("GET", "whatever", "", b"");
    assert_refused(&none, 404, "NotFound", "not found");
    let none = root.send("GET", "upload-path", "", b"");
    assert_refused(&none, 405, "MethodNotAllowed", "here one can PUT");
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
