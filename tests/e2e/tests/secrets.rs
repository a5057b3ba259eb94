//! The secrets of a bucket and a database stay where they were given: no line of a log, no error, no
//! answer and no command line that Granary makes has them.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::process::{Command, Output};

use granary_e2e::background::eventually;
use granary_e2e::backing::{self, below, with_credentials};
use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Background, Backing, Http, Server, places};
use granary_test_services::{Postgres, S3Server, SECRET};

/// Nobody else's, so that it is known when it is seen.
const PASSWORD: &str = "pw-0d7c2e-of-the-database";
const WRONG_SECRET: &str = "secret-5a91bb-of-nobody";

/// The URL of a database with a password, which a PostgreSQL that trusts everybody does not look at.
fn with_password(url: &str) -> String {
    let rest = url.split_once("://").expect("a URL").1;
    let (user, place) = rest.split_once('@').expect("a user");
    format!("postgres://{user}:{PASSWORD}@{place}")
}

fn assert_silent(what: &str, said: &str) {
    for secret in [SECRET, WRONG_SECRET, PASSWORD] {
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what} has a secret");
    }
}

fn assert_fails_silently(what: &str, command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("granary runs");
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(!status.success(), "{what} works: {said}");
    assert_silent(what, &said);
    said
}

#[test]
fn neither_logs_nor_answers_nor_command_lines_have_the_secrets() {
    let (mut s3, postgres, data) = (S3Server::start(), Postgres::start(), places::scratch());
    let store = below(&s3.bucket("own"), "place");
    let index = with_password(&postgres.database("own"));
    Backing::set(data.path(), Some((&store, &s3.dir().join("own/place"))), Some(&index));
    // Everything that anything in it has to say.
    let server = Server::start_in(data.path(), &[], &[("GRANARY_LOG", "trace")]);
    let mut random = Random::from_environment();
    let (http, root) = (server.http(), Http::anonymous(&server.origin()));
    let push = |random: &mut Random| {
        let nar = random.nar();
        let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
        let nar = upload.put_nar(&http);
        let said = if nar.is_success() { upload.put_narinfo(&http) } else { nar };
        (said.status, said.text())
    };
    assert_eq!(push(&mut random).0, 201);
    let cmdline = fs::read(format!("/proc/{}/cmdline", server.process())).expect("it runs");
    assert_silent("the command line", &String::from_utf8_lossy(&cmdline));

    let mut answers = Vec::new();
    s3.stop();
    eventually("it is not ready", || root.get("readyz").status == 503);
    answers.push(root.get("readyz").text());
    answers.push(push(&mut random).1);
    postgres.kill_nine();
    eventually("the index is away, too", || {
        let said = root.get("readyz").text();
        !said.contains(r#""index":"ok""#) && !said.contains(r#""index": "ok""#)
    });
    answers.push(root.get("readyz").text());
    answers.push(push(&mut random).1);
    s3.start_again();
    postgres.restart();
    eventually("it is ready again", || root.get("readyz").status == 200);
    assert_eq!(push(&mut random).0, 201);
    assert_silent("an answer", &answers.join("\n"));
    let log = server.log();
    assert!(log.len() > 100, "it was asked to tell all: {log:#?}");
    assert_silent("the log", &log.join("\n"));
    server.stop();

    let fsck =
        Background::start(backing::granary(data.path(), &["fsck"]).env("GRANARY_LOG", "trace"));
    let (status, lines) = fsck.end();
    assert!(status.success(), "{lines:#?}");
    assert_silent("fsck", &lines.join("\n"));
}

#[test]
fn errors_about_a_bucket_or_a_database_do_not_repeat_the_secrets() {
    let (s3, data) = (S3Server::start(), places::scratch());
    let store = below(&s3.bucket("own"), "place");
    let objects = s3.dir().join("own/place");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    // As if there were a store.
    fs::create_dir(data.path().join("packs")).expect("a folder");
    for address in ["127.0.0.1:1", "127.0.0.1:port", "[nonsense", "127.0.0.1:1/name?what=this"] {
        let index = format!("postgres://granary:{PASSWORD}@{address}/own");
        Backing::set(data.path(), None, Some(&index));
        for arguments in [&serve[..], &["fsck"]] {
            let mut command = backing::granary(data.path(), arguments);
            let said = assert_fails_silently(address, command.env("GRANARY_LOG", "trace"));
            assert!(said.to_lowercase().contains("index"), "{address}: {said}");
        }
    }
    Backing::set(data.path(), Some((&store, &objects)), None);
    let mut command = backing::granary(data.path(), &serve);
    let wrong = command.env("AWS_SECRET_ACCESS_KEY", WRONG_SECRET).env("GRANARY_LOG", "debug");
    let said = assert_fails_silently("a wrong secret", wrong);
    assert!(said.contains("credentials") || said.contains("AWS_SECRET_ACCESS_KEY"), "{said}");

    let to = places::scratch();
    let mut command = Command::new(places::granary());
    command.args(["copy-store", &store]).arg(to.path());
    with_credentials(&mut command).env("AWS_SECRET_ACCESS_KEY", WRONG_SECRET);
    assert_fails_silently("copy-store", &mut command);
}
