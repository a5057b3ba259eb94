//! What Attic's client is told when something is wrong, and that nothing is left of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::io::Write as _;
use std::net::TcpStream;

use granary_e2e::attic::{Attic, info};
use granary_e2e::codec::sha256_nix32;
use granary_e2e::nar::{file, nar};
use granary_e2e::random::Random;
use granary_e2e::raw::RawAnswer;
use granary_e2e::tokens::{PERMISSIONS, mint};
use granary_e2e::{Server, places};
use serde_json::{Value, json};

#[track_caller]
fn assert_refused(answer: &RawAnswer, code: u16, error: &str, message: &str) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.status, code, "{answer:?}");
    let expected = json!({"code": code, "error": error, "message": message});
    assert_eq!(answer.json(), expected);
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
    let forged = mint(data.path(), "alice", &[("*", &PERMISSIONS)]);
    let forged = Attic::bearing(&server, &format!("{}AAAA", &forged[..forged.len() - 4]));
    for (asker, code, error, text) in [
        (elsewhere, 403, "AccessError", "the token does not permit this on that cache"),
        (
            forged,
            401,
            "Unauthorized",
            "the token is not signed by a key of this server, or has been changed since",
        ),
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
