//! `granary fsck` and `granary copy-store`: what they say of a store that is sound, that is damaged,
//! and that is in use; and a copy that serves what the first store served.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Server, packs, places};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PATHS: usize = 5;

fn granary(arguments: &[&str]) -> Output {
    Command::new(places::granary()).args(arguments).output().expect("granary runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `granary fsck` of that folder: whether all was well, and what it printed.
fn fsck(data: &Path, arguments: &[&str]) -> (bool, String) {
    let output = granary(&[&["fsck", "--data", text(data)][..], arguments].concat());
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fsck_json(data: &Path, arguments: &[&str]) -> (bool, Value) {
    let (sound, printed) = fsck(data, &[arguments, &["--json"]].concat());
    (sound, serde_json::from_str(&printed).expect("JSON"))
}

fn copy_store(from: &Path, to: &Path) -> Output {
    granary(&["copy-store", text(from), text(to)])
}

/// Publishes some paths. What there is to ask for afterwards, with the answers.
fn publish(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut random = Random::from_environment();
    let http = server.http();
    let mut answers = Vec::new();
    for _ in 0..PATHS {
        let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);
        assert!(upload.put_nar(&http).is_success());
        assert!(upload.put_narinfo(&http).is_success());
        answers.push((upload.narinfo_path(), http.get(&upload.narinfo_path()).body));
    }
    answers
}

/// A store that was copied, so that its packs are sealed.
fn sealed_store(scratch: &Path) -> PathBuf {
    let (data, copy) = (scratch.join("data"), scratch.join("copy"));
    let server = Server::start(&data);
    publish(&server);
    server.stop();
    assert!(copy_store(&data, &copy).status.success());
    copy
}

fn only_pack(data: &Path) -> PathBuf {
    let folder = fs::read_dir(data.join("packs")).expect("a store");
    let packs = folder.map(|entry| entry.expect("an entry").path());
    let mut packs = packs.filter(|path| path.extension().is_some_and(|end| end == "pack"));
    packs.next().expect("a sealed pack")
}

#[test]
fn a_sound_store_is_found_sound_however_it_is_looked_at() {
    let scratch = places::scratch();
    let data = scratch.path().join("data");
    let server = Server::start(&data);
    publish(&server);
    let in_use = granary(&["fsck", "--data", text(&data)]);
    assert!(!in_use.status.success());
    assert!(String::from_utf8_lossy(&in_use.stderr).contains("in use by another granary process"));
    server.stop();
    for arguments in [&[][..], &["--read-data"], &["--rebuild"], &["--rebuild", "--read-data"]] {
        let (sound, printed) = fsck(&data, arguments);
        assert!(sound, "{arguments:?}: {printed}");
        assert_eq!(printed.contains("rebuilt the index of"), arguments.contains(&"--rebuild"));
        assert!(printed.contains(&format!("({PATHS} paths, ")), "{printed}");
    }
    let nothing = granary(&["fsck", "--data", text(&scratch.path().join("nothing"))]);
    assert!(!nothing.status.success());
    assert!(!scratch.path().join("nothing").exists(), "it made a store");
}

#[test]
fn rot_is_found_by_reading_and_the_paths_it_is_in_are_named() {
    let scratch = places::scratch();
    let copy = sealed_store(scratch.path());
    let pack = only_pack(&copy);
    let mut bytes = fs::read(&pack).expect("a pack");
    // Data of the first chunk, behind the pack's start, the records before it, and its header.
    let records = packs::records(&bytes[32..]);
    let before = records.iter().take_while(|record| record.kind != packs::CHUNK);
    let at = 32 + before.map(|record| record.size as usize).sum::<usize>();
    assert_eq!(bytes[at + 9], packs::CHUNK);
    bytes[at + 64 + 7] ^= 1;
    fs::write(&pack, bytes).expect("written");
    assert!(fsck(&copy, &[]).0, "data was read without being asked for");
    let (sound, report) = fsck_json(&copy, &["--read-data"]);
    assert!(!sound);
    assert_eq!(report["damaged_records"], 1, "{report:#}");
    assert_eq!(report["problems"][0]["kind"], "record-damaged", "{report:#}");
    assert!(!report["damaged_paths"].as_array().expect("a list").is_empty(), "{report:#}");
    let path = report["damaged_paths"][0]["path"].as_str().expect("a path");
    assert!(path.starts_with("/nix/store/"), "{path}");
    let (sound, printed) = fsck(&copy, &["--read-data"]);
    assert!(!sound && printed.contains(path), "{printed}");
}

#[test]
fn a_store_that_does_not_open_is_told_what_is_wrong_with_its_packs() {
    let scratch = places::scratch();
    let copy = sealed_store(scratch.path());
    let pack = only_pack(&copy);
    let bytes = fs::read(&pack).expect("a pack");
    fs::write(&pack, &bytes[..bytes.len() - 100]).expect("written");
    for arguments in [&[][..], &["--read-data"], &["--rebuild"]] {
        let (sound, report) = fsck_json(&copy, arguments);
        assert!(!sound);
        assert_eq!(report["problems"][0]["kind"], "pack-footer", "{report:#}");
        assert_eq!(report["caches"], Value::Null, "{report:#}");
    }
    fs::write(&pack, bytes).expect("written");
    assert!(fsck(&copy, &["--read-data"]).0);
}

#[test]
fn a_copy_serves_what_the_first_store_served() {
    let scratch = places::scratch();
    let (data, copy) = (scratch.path().join("data"), scratch.path().join("copy"));
    let server = Server::start(&data);
    let answers = publish(&server);
    let refused = copy_store(&data, &copy);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use by another granary process"));
    server.kill_nine();
    for _ in 0..2 {
        assert!(copy_store(&data, &copy).status.success());
    }
    assert!(!copy_store(&data, &data).status.success());
    let server = Server::start(&copy);
    for (path, body) in &answers {
        assert!(server.http().get(path).body == *body, "{path} differs");
    }
    server.stop();
    assert!(fsck(&copy, &["--read-data"]).0);
    fs::write(copy.join("packs.copying"), "elsewhere\n").expect("written");
    let unfinished = granary(&["fsck", "--data", text(&copy)]);
    let said = String::from_utf8_lossy(&unfinished.stderr).into_owned();
    assert!(!unfinished.status.success() && said.contains("granary copy-store again"), "{said}");
}
