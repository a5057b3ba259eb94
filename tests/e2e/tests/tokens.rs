//! Tokens from the command line, from other keys, and from an issuer of identity tokens: what they
//! permit, and how they end.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::tokens::{self, now};
use granary_e2e::upload::Upload;
use granary_e2e::{Http, Issuer, Server, backing, places};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const WHOAMI: &str = "_granary/v1/whoami";
const REVOCATIONS: &str = "_granary/v1/revocations";
const EXCHANGE: &str = "_granary/v1/token";

fn granary(arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(places::granary());
    command.arg("token").args(arguments).env_remove("GRANARY_TOKEN");
    // No configuration of whoever runs the tests.
    command.env("XDG_CONFIG_HOME", places::tools().join("none"));
    if let Some(token) = token {
        command.env("GRANARY_TOKEN", token);
    }
    command.output().expect("granary runs")
}

/// `granary token create` for the server's data directory.
fn create(data: &Path, arguments: &[&str]) -> String {
    let data = data.to_str().expect("a path of text");
    let output = granary(&[&["create", "--data", data], arguments].concat(), None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn whoami(server: &Server, token: &str) -> (u16, Value) {
    let answer = Http::with_token(&server.origin(), token).get(WHOAMI);
    let text = answer.text();
    (answer.status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Whether that token may push to the server's cache, and with which status that was answered.
fn push(server: &Server, token: &str) -> u16 {
    let mut random = Random::from_environment();
    let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);
    upload.put_nar(&Http::with_token(&server.url(), token)).status
}

#[test]
fn a_token_from_the_command_line_permits_what_it_says_and_ends_when_it_says() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let token = create(
        data.path(),
        &["--sub", "alice", "--validity", "1h", "--push", "def*", "alice-*", "--pull", "*"],
    );
    let (status, who) = whoami(&server, &token);
    assert_eq!(status, 200);
    assert_eq!(who["subject"], "alice");
    assert_eq!(who["caches"], json!({"*": ["pull"], "alice-*": ["push"], "def*": ["push"]}));
    let expires = who["expires"].as_u64().expect("a time");
    assert!((3500..=3600).contains(&(expires - now())), "{expires}");
    assert_eq!(push(&server, &token), 201);

    let other = create(data.path(), &["--sub", "bob", "--push", "bob-*", "--pull", "*"]);
    assert_eq!(push(&server, &other), 403);
    let late = create(data.path(), &["--sub", "eve", "--push", "*", "--not-before", "10m"]);
    assert_eq!(push(&server, &late), 401);
    let (status, why) = whoami(&server, &late);
    assert_eq!(status, 401);
    assert!(why.to_string().contains("not valid yet"), "{why}");
    let old = ["--sub", "eve", "--push", "*", "--not-before", "1000000000", "--validity", "1d"];
    let (status, why) = whoami(&server, &create(data.path(), &old));
    assert_eq!(status, 401);
    assert!(why.to_string().contains("expired"), "{why}");

    let nobody = server_root(&server).get(WHOAMI);
    assert_eq!(nobody.status, 200);
    let nobody: Value = serde_json::from_slice(&nobody.body).expect("JSON");
    assert_eq!(nobody["subject"], Value::Null);
    server.stop();
}

fn server_root(server: &Server) -> Http {
    Http::anonymous(&server.origin())
}

#[test]
fn revoked_tokens_stay_revoked_after_kill_nine() {
    let data = places::scratch();
    let mut server = Server::start(data.path());
    let make = |sub: &str| create(data.path(), &["--sub", sub, "--push", "*"]);
    let (by_id, of_subject, own, untouched) =
        (make("alice"), make("bob"), make("carol"), make("dave"));
    let root = server.token().to_owned();
    let id = |server: &Server, token: &str| {
        whoami(server, token).1["id"].as_str().expect("an id").to_owned()
    };

    let url = server.origin();
    let revoke = |what: [&str; 2], token: &str| {
        granary(&["revoke", "--server", &url, what[0], what[1]], Some(token))
    };
    let alices = id(&server, &by_id);
    // Not one's own, and not without every permission.
    let refused = revoke(["--id", &alices], &untouched);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("every permission"), "{refused:?}");
    assert!(!revoke(["--subject", "dave"], &untouched).status.success());
    assert_eq!(push(&server, &by_id), 201);

    assert!(revoke(["--id", &alices], &root).status.success());
    assert!(revoke(["--subject", "bob"], &root).status.success());
    assert!(revoke(["--id", &id(&server, &own)], &own).status.success());

    for restarted in [false, true] {
        if restarted {
            server = server.restart_after_kill_nine();
        }
        for token in [&by_id, &of_subject, &own] {
            assert_eq!(push(&server, token), 401, "restarted: {restarted}");
            let (status, why) = whoami(&server, token);
            assert_eq!(status, 401);
            assert!(why.to_string().contains("revoked"), "{why}");
        }
        assert_eq!(push(&server, &untouched), 201);
        let list = Http::with_token(&server.origin(), &root).get(REVOCATIONS);
        let list: Value = serde_json::from_slice(&list.body).expect("JSON");
        assert!(list["ids"][&alices].as_u64().is_some(), "{list}");
        assert!(list["subjects"]["bob"].as_u64().is_some(), "{list}");
        assert_eq!(Http::with_token(&server.origin(), &untouched).get(REVOCATIONS).status, 403);
        assert_eq!(server_root(&server).get(REVOCATIONS).status, 401);
    }
    server.stop();
}

#[test]
fn a_revoked_root_token_gives_way_to_another_at_the_next_start() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let old = server.token().to_owned();
    let http = Http::with_token(&server.origin(), &old);
    assert_eq!(http.post(REVOCATIONS, r#"{"subject": "root"}"#).status, 204);
    assert_eq!(push(&server, &old), 401);
    let server = server.restart();
    assert_eq!(push(&server, &old), 401);
    assert_eq!(push(&server, server.token()), 201);
    server.stop();
}

#[test]
fn attics_tokens_work_with_its_secret_in_the_configuration() {
    let data = places::scratch();
    let secret = [9; 48];
    let text = data_encoding::BASE64.encode(&secret);
    std::fs::write(data.path().join("attic"), text).expect("a file");
    let config = "[tokens]\nhs256_secret_files = ['attic']\n";
    std::fs::write(data.path().join("config.toml"), config).expect("a file");
    let server = Server::start(data.path());
    let sign = |permissions: Value, secret: &[u8]| {
        let claims = json!({"sub": "alice", "exp": now() + 60,
            "https://jwt.attic.rs/v1": {"caches": {"d*": permissions}}});
        tokens::sign(secret, &claims)
    };
    assert_eq!(push(&server, &sign(json!({"r": 1, "w": 1}), &secret)), 201);
    assert_eq!(push(&server, &sign(json!({"r": 1}), &secret)), 403);
    assert_eq!(push(&server, &sign(json!({"r": 1, "w": 1}), &[8; 48])), 401);

    // A token of the command line's with the same secret.
    let file = data.path().join("attic");
    let file = file.to_str().expect("a path of text");
    let made =
        granary(&["create", "--signing-key", file, "--sub", "ci", "--push", "default"], None);
    let made = String::from_utf8(made.stdout).expect("text");
    assert_eq!(push(&server, made.trim()), 201);
    server.stop();
}

#[test]
fn a_ci_job_pushes_with_nothing_but_its_identity_token() {
    let data = places::scratch();
    let issuer = Issuer::start();
    let config = format!(
        "[[oidc]]\nissuer = '{}'\naudience = 'granary'\n[[oidc.grant]]\n\
         claims = {{ repository = 'org/*' }}\ncaches = {{ 'default' = ['pull', 'push'] }}\n",
        issuer.url()
    );
    std::fs::write(data.path().join("config.toml"), config).expect("a file");
    let server = Server::start(data.path());
    let claims = |repository: &str| {
        json!({"iss": issuer.url(), "aud": "granary", "sub": format!("repo:{repository}"),
            "exp": now() + 300, "repository": repository})
    };
    let identity = issuer.token(&claims("org/repo"));
    assert_eq!(push(&server, &identity), 201);
    let exchange =
        |server: &Server, token: &str| Http::with_token(&server.origin(), token).post(EXCHANGE, "");
    let issued = exchange(&server, &identity);
    assert_eq!(issued.status, 200, "{}", issued.text());
    let issued: Value = serde_json::from_slice(&issued.body).expect("JSON");
    let token = issued["token"].as_str().expect("a token").to_owned();
    assert!((3500..=3601).contains(&(issued["expires"].as_u64().expect("a time") - now())));
    let subject = format!("oidc:{}:repo:org/repo", issuer.host());
    assert_eq!(whoami(&server, &token).1["subject"], Value::String(subject.clone()));
    assert_eq!(push(&server, &token), 201);
    // What was given cannot be made to last for ever.
    assert_eq!(exchange(&server, &token).status, 400);
    assert_eq!(exchange(&server, "").status, 401);
    let stranger = issuer.token(&claims("mallory/repo"));
    assert_eq!(push(&server, &stranger), 403);
    assert_eq!(exchange(&server, &stranger).status, 403);

    // The issuer is away, and the server starts anew.
    issuer.go_away();
    let server = server.restart();
    assert_eq!(push(&server, &issuer.token(&claims("org/other"))), 201);
    let root = Http::with_token(&server.origin(), server.token());
    let body = json!({ "subject": subject }).to_string();
    assert_eq!(root.post(REVOCATIONS, &body).status, 204);
    assert_eq!((push(&server, &token), push(&server, &identity)), (401, 401));
    server.stop();
}

#[test]
fn a_configuration_that_is_wrong_stops_the_start_and_says_where() {
    let data = places::scratch();
    for (config, named) in [
        ("[tokens]\nhs256_secret_file = ['x']\n", "hs256_secret_file"),
        ("[tokens]\nhs256_secret_files = ['nowhere']\n", "nowhere"),
        ("[[oidc]]\nissuer = 'https://a'\n", "audience"),
    ] {
        let path = data.path().join("other.toml");
        std::fs::write(&path, config).expect("a file");
        let output = backing::granary(data.path(), &["serve", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(&path)
            .output()
            .expect("granary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "{named}: {said}");
    }
}

#[test]
fn a_token_can_be_looked_at_without_a_server() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let token = create(data.path(), &["--sub", "alice", "--pull", "*", "--validity", "never"]);
    server.stop();
    let file = data.path().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("a file");
    let (file, data) = (file.to_str().expect("text"), data.path().to_str().expect("text"));
    let shown = granary(&["inspect", "--data", data, "--json", file], None);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["claims"]["sub"], "alice");
    assert_eq!((&shown["expired"], &shown["believed"]), (&json!(false), &json!(true)));
    let shown = String::from_utf8(granary(&["inspect", file], None).stdout).expect("text");
    assert!(shown.contains("alice") && shown.contains("never"), "{shown}");
    assert!(!shown.contains(&token), "{shown}");
}
