//! Healing: a store that lost some bytes says so, promises nothing that it cannot send, and is whole again
//! once what was lost has been pushed once more, by Nix or by granary.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::closure::{Closure, StorePath};
use granary_e2e::granary::Home;
use granary_e2e::nix::Nix;
use granary_e2e::{Server, Version, packs, places};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// How long a server has to notice something.
const SOON: Duration = Duration::from_secs(60);

fn granary(arguments: &[&str]) -> Output {
    Command::new(places::granary()).args(arguments).output().expect("granary runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What a command that fails because of damage says of it.
fn damage(arguments: &[&str]) -> Value {
    let output = granary(arguments);
    assert!(!output.status.success(), "{arguments:?} found nothing");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A store that holds the closure in a sealed pack, of which the first chunk is rotten.
fn rotten_store(scratch: &Path, closure: &Closure) -> PathBuf {
    let (data, copy) = (scratch.join("data"), scratch.join("copy"));
    let server = Server::start(&data);
    Nix::of(Version::V2_34, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), closure);
    server.stop();
    assert!(granary(&["copy-store", text(&data), text(&copy)]).status.success());
    let folder = fs::read_dir(copy.join("packs")).expect("a store");
    let mut files = folder.map(|entry| entry.expect("an entry").path());
    let pack = files.find(|path| path.extension().is_some_and(|end| end == "pack"));
    let pack = pack.expect("a sealed pack");
    let mut bytes = fs::read(&pack).expect("a pack");
    let records = packs::records(&bytes[32..]);
    let before = records.iter().take_while(|record| record.kind != packs::CHUNK);
    let at = 32 + before.map(|record| record.size as usize).sum::<usize>();
    bytes[at + 64 + 7] ^= 1;
    fs::write(&pack, bytes).expect("written");
    copy
}

/// The narinfos of the closure that the server does not have.
fn absent(server: &Server, closure: &Closure) -> Vec<String> {
    let http = server.http();
    let missing =
        |path: &&StorePath| http.get(&format!("{}.narinfo", path.hash_part())).status == 404;
    closure.paths.iter().filter(missing).map(|path| path.path.clone()).collect()
}

fn broken(report: &Value) -> Vec<String> {
    let paths = report["broken_paths"].as_array().expect("a list").iter();
    let mut paths: Vec<String> =
        paths.map(|path| path["path"].as_str().expect("a path").to_owned()).collect();
    paths.sort();
    paths
}

#[test]
fn what_a_scrub_finds_is_pushed_again_by_nix_and_served_whole() {
    let (scratch, closure) = (places::scratch(), Closure::tiny());
    let copy = rotten_store(scratch.path(), &closure);
    let report = damage(&["scrub", "--data", text(&copy), "--json"]);
    assert_eq!(report["damaged_records"], 1, "{report:#}");
    let broken = broken(&report);
    assert!(!broken.is_empty());
    let server = Server::start(&copy);
    let mut found = absent(&server, &closure);
    found.sort();
    assert_eq!(found, broken);
    // Each with a home of its own: Nix remembers what it has seen.
    let refused = Nix::of(Version::V2_34, &server).try_copy_from(&server.url(), &broken[0]);
    assert!(refused.is_err(), "a broken path was served");
    Nix::of(Version::V2_8, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    assert_eq!(absent(&server, &closure), Vec::<String>::new());
    let server = server.restart();
    let nix = Nix::of(Version::V2_34, &server);
    let store = nix.copy_from(&server.url(), &closure.top);
    nix.assert_same(&store, &closure);
    server.stop();
    // The damaged record lies there still, and is known.
    let again = granary(&["scrub", "--data", text(&copy), "--restart", "--json"]);
    let report: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(report["damaged_records"], 0, "{report:#}");
    assert_eq!(report["broken_paths"], Value::Array(Vec::new()), "{report:#}");
}

#[test]
fn fsck_marks_only_when_it_is_told_to() {
    let (scratch, closure) = (places::scratch(), Closure::tiny());
    let copy = rotten_store(scratch.path(), &closure);
    let check = ["fsck", "--data", text(&copy), "--read-data", "--json"];
    assert_eq!(damage(&check).get("marked"), None);
    let server = Server::start(&copy);
    assert_eq!(absent(&server, &closure), Vec::<String>::new());
    server.stop();
    let report = damage(&[&check[..], &["--mark-damaged"]].concat());
    assert_eq!(report["marked"]["records"], 1, "{report:#}");
    let server = Server::start(&copy);
    assert!(!absent(&server, &closure).is_empty());
}

#[test]
fn a_server_that_scrubs_finds_it_by_itself_and_granary_pushes_it_again() {
    let (scratch, closure) = (places::scratch(), Closure::tiny());
    let copy = rotten_store(scratch.path(), &closure);
    let server = Server::start_with(&copy, &["--scrub-rate", "256MiB"]);
    let began = Instant::now();
    while absent(&server, &closure).is_empty() {
        assert!(began.elapsed() < SOON, "{:?}", server.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let home = Home::with_token(Version::V2_34, &server.origin(), server.token());
    home.push("default", &closure);
    assert_eq!(absent(&server, &closure), Vec::<String>::new());
    let nix = Nix::of(Version::V2_34, &server);
    let store = nix.copy_from(&server.url(), &closure.top);
    nix.assert_same(&store, &closure);
}

#[test]
fn a_server_that_does_not_scrub_is_taught_by_the_first_reader() {
    let (scratch, closure) = (places::scratch(), Closure::tiny());
    let copy = rotten_store(scratch.path(), &closure);
    let server = Server::start(&copy);
    let read = Nix::of(Version::V2_34, &server).try_copy_from(&server.url(), &closure.top);
    assert!(read.is_err(), "damaged bytes were taken");
    assert!(!absent(&server, &closure).is_empty(), "they are promised again");
    Nix::of(Version::V2_26, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    let nix = Nix::of(Version::V2_34, &server);
    let store = nix.copy_from(&server.url(), &closure.top);
    nix.assert_same(&store, &closure);
}
