//! Copying from other binary caches: what arrives, what stays behind, and what does not travel.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use granary_e2e::closure::StorePath;
use granary_e2e::tokens::mint;
use granary_e2e::{Closure, FileServer, Http, Nix, Server, Version, places, raw};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Made with `nix-store --generate-binary-cache-key`.
const SECRET: &str = "test-1:jtn2OJ3ykapqte2fYqPJQLVDb0MH0cJRWnhydm4BsRIXWV7nZHWXlOebyRoRm5gOEDwW4a6zUprC4prD6U4U2g==";
const PUBLIC: &str = "test-1:F1le52R1l5Tnm8kaEZuYDhA8FuGus1KawuKaw+lOFNo=";

/// A signed cache in a directory, as Nix makes it.
fn nix_cache(closure: &Closure, compression: &str) -> TempDir {
    let dir = places::scratch();
    let key = dir.path().join("key.sec");
    fs::write(&key, SECRET).unwrap();
    let nix = Nix::with(Version::V2_34, "none", PUBLIC);
    let cache = dir.path().join("cache");
    let (cache, key) = (cache.display(), key.display());
    nix.copy_to(&format!("file://{cache}?compression={compression}&secret-key={key}"), closure);
    dir
}

fn url(dir: &TempDir) -> String {
    format!("file://{}", dir.path().join("cache").display())
}

fn narinfo(dir: &TempDir, path: &StorePath) -> PathBuf {
    dir.path().join("cache").join(format!("{}.narinfo", path.hash_part()))
}

/// The NAR that a narinfo names, relative to the cache.
fn nar(dir: &TempDir, path: &StorePath) -> String {
    let text = fs::read_to_string(narinfo(dir, path)).unwrap();
    text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap().to_owned()
}

struct Target {
    server: Server,
    home: TempDir,
    _data: TempDir,
}

impl Target {
    fn start() -> Self {
        let data = places::scratch();
        let server = Server::start(data.path());
        let home = places::scratch();
        fs::create_dir(home.path().join("tmp")).unwrap();
        Self { server, home, _data: data }
    }

    fn create(&self, cache: &str) {
        let path = format!("/_granary/v1/caches/{cache}");
        let answer =
            raw::request(&self.server.origin(), "PUT", &path, Some(self.server.token()), b"{}");
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    fn cache(&self, name: &str) -> Http {
        Http::with_token(&format!("{}/{name}", self.server.origin()), self.server.token())
    }

    fn tmp(&self) -> PathBuf {
        self.home.path().join("tmp")
    }

    /// `granary migrate` with the source's key.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(places::granary());
        command
            .arg("migrate")
            .args(arguments)
            .args(["--json", "--trusted-public-keys", PUBLIC, "--tmp"])
            .arg(self.tmp())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("GRANARY_SERVER", self.server.origin())
            .env("GRANARY_TOKEN", self.server.token())
            .stdin(Stdio::null());
        command
    }

    fn migrate(&self, arguments: &[&str]) -> (Value, Output) {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(fs::read_dir(self.tmp()).unwrap().count(), 0, "something was left behind");
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (report, output)
    }

    fn migrate_ok(&self, arguments: &[&str]) -> Value {
        let (report, output) = self.migrate(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        report
    }

    /// A real Nix that trusts the source's key and no other gets the closure.
    fn assert_served(&self, cache: &str, closure: &Closure) {
        let nix = Nix::with(Version::V2_34, self.server.token(), PUBLIC);
        let store = nix.copy_from(&format!("{}/{cache}", self.server.origin()), &closure.top);
        nix.assert_same(&store, closure);
    }
}

fn copied(report: &Value) -> BTreeSet<String> {
    let copied = report["copied"].as_array().unwrap().iter();
    copied.map(|path| path["path"].as_str().unwrap().to_owned()).collect()
}

fn failed(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let failed = report["failed"].as_array().unwrap().iter();
    failed.map(|path| (text(&path["path"]), text(&path["error"]))).collect()
}

fn names<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> BTreeSet<String> {
    paths.into_iter().map(|path| path.path.clone()).collect()
}

#[test]
fn whatever_nix_compressed_arrives_with_its_signatures() {
    let target = Target::start();
    let closure = Closure::tiny().of_package("grep");
    let mut sent = Vec::new();
    for compression in ["xz", "zstd", "bzip2", "none"] {
        let source = nix_cache(&closure, compression);
        target.create(compression);
        let report = target.migrate_ok(&[&url(&source), compression, "--all"]);
        assert_eq!(copied(&report), names(&closure.paths), "{compression}");
        assert!(report["bytes_downloaded"].as_u64().unwrap() > 1_000_000);
        sent.push(report["bytes_sent"].as_u64().unwrap());
        target.assert_served(compression, &closure);
    }
    // The chunks are there after the first, whatever they were wrapped in.
    assert!(sent[1..].iter().all(|bytes| *bytes < sent[0] / 20), "{sent:?}");
    target.server.stop();
}

#[test]
fn what_is_there_is_not_fetched_again_and_a_cut_answer_is() {
    let target = Target::start();
    let closure = Closure::tiny().of_package("grep");
    let source = nix_cache(&closure, "zstd");
    let web = FileServer::start(&source.path().join("cache"), "sesame");
    let netrc = source.path().join("netrc");
    fs::write(&netrc, "machine 127.0.0.1 login any password sesame\n").unwrap();
    let netrc = netrc.display().to_string();

    let (_, output) = target.migrate(&[&web.url(), "default", &closure.top]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("401") && said.contains("--netrc-file"), "{said}");
    let arguments = [&web.url(), "default", &closure.top, "--netrc-file", &netrc];
    let (_, output) = target.migrate(&[&web.url(), "default", "--all", "--netrc-file", &netrc]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--stdin") && !said.contains("sesame"), "{said}");

    let largest = closure.paths.iter().max_by_key(|path| path.nar_size).unwrap();
    web.cut_once(&format!("/{}", nar(&source, largest)));
    web.asked();
    let report = target.migrate_ok(&arguments);
    assert_eq!(copied(&report), names(&closure.paths));
    let nars = web.asked().iter().filter(|path| path.contains("/nar/")).count();
    assert_eq!(nars, closure.paths.len() + 1, "one was cut and asked for again");
    target.assert_served("default", &closure);

    let report = target.migrate_ok(&arguments);
    assert_eq!(copied(&report), BTreeSet::new());
    assert_eq!(report["present"], closure.paths.len());
    assert_eq!(report["bytes_downloaded"], 0);
    assert!(web.asked().iter().all(|path| !path.contains("/nar/")));
    target.server.stop();
}

#[test]
fn another_granary_tells_what_it_holds_to_whoever_may_read_it() {
    let closure = Closure::tiny().of_package("sed");
    let (old, new) = (Target::start(), Target::start());
    old.create("team");
    let files = nix_cache(&closure, "none");
    old.migrate_ok(&[&url(&files), "team", &closure.top]);
    let from = format!("{}/team", old.server.origin());

    // Page by page.
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/_granary/v1/caches/team/paths?limit=2{after}");
        let page = raw::request(&old.server.origin(), "GET", &path, Some(old.server.token()), b"");
        let page = page.json();
        let paths = page["paths"].as_array().unwrap();
        assert!(paths.len() <= 2);
        listed.extend(paths.iter().map(|name| format!("/nix/store/{}", name.as_str().unwrap())));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(listed.len(), closure.paths.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names(&closure.paths));

    let reader = mint(old.server.data(), "reader", &[("team", &["pull"])]);
    let (_, output) = new.migrate(&[&from, "default", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    let token = new.home.path().join("token");
    fs::write(&token, &reader).unwrap();
    let token = token.display().to_string();
    let report = new.migrate_ok(&[&from, "default", "--all", "--from-token-file", &token]);
    assert_eq!(copied(&report), names(&closure.paths));
    new.assert_served("default", &closure);
    let mut again = new.command(&[&from, "default", "--all"]);
    let again = again.env("GRANARY_FROM_TOKEN", &reader).output().unwrap();
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(report["present"], closure.paths.len());
    assert_eq!((&report["bytes_downloaded"], &report["copied"]), (&json!(0), &json!([])));
    old.server.stop();
    new.server.stop();
}

/// What refers to one of these, directly or not, and these.
fn referrers(closure: &Closure, bad: &[&StorePath]) -> BTreeSet<String> {
    let mut all = names(bad.iter().copied());
    loop {
        let before = all.len();
        for path in &closure.paths {
            if path.references.iter().any(|reference| all.contains(reference)) {
                all.insert(path.path.clone());
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn what_is_bad_stays_behind_with_what_needs_it_and_the_rest_arrives() {
    let target = Target::start();
    let closure = Closure::tiny();
    let source = nix_cache(&closure, "zstd");
    let path = |name: &str| closure.paths.iter().find(|path| path.path.contains(name)).unwrap();
    // A flipped bit in a NAR, a signature that is wrong, none, and a narinfo that is not there.
    let spoilt = path("-libmd0-");
    let file = source.path().join("cache").join(nar(&source, spoilt));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let edit = |path: &StorePath, field: &str, to: &str| {
        let file = narinfo(&source, path);
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| match line.starts_with(field) {
            true => to.to_owned(),
            false => line.to_owned(),
        });
        fs::write(&file, lines.map(|line| line + "\n").collect::<String>()).unwrap();
    };
    let (missigned, unsigned) = (path("-mawk-"), path("-debianutils-"));
    edit(missigned, "Sig:", &format!("Sig: test-1:{}==", "A".repeat(86)));
    edit(unsigned, "Sig:", "Other: 1");
    let lost = path("-libgmp10-");
    fs::remove_file(narinfo(&source, lost)).unwrap();

    let (report, output) = target.migrate(&[&url(&source), "default", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    let failed = failed(&report);
    let mut expected = referrers(&closure, &[spoilt, missigned, unsigned, lost]);
    // Nothing is known of it but that it is wanted.
    expected.remove(&lost.path);
    assert_eq!(failed.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (path, why) in [
        (&spoilt.path, "NAR"),
        (&missigned.path, "signature by test-1 is wrong"),
        (&unsigned.path, "not signed"),
        (&closure.top, "refers to"),
    ] {
        assert!(failed[path].contains(why), "{path}: {}", failed[path]);
    }
    let needs_lost = closure.paths.iter().find(|path| path.references.contains(&lost.path));
    let why = &failed[&needs_lost.unwrap().path];
    assert!(why.contains("neither in the source") || why.contains("left out"), "{why}");
    let arrived: BTreeSet<_> = names(&closure.paths)
        .into_iter()
        .filter(|path| !expected.contains(path) && *path != lost.path)
        .collect();
    assert_eq!(copied(&report), arrived);
    let cache = target.cache("default");
    for path in &closure.paths {
        let status = cache.get(&format!("{}.narinfo", path.hash_part())).status;
        let there = arrived.contains(&path.path);
        assert_eq!(status, if there { 200 } else { 404 }, "{}", path.path);
    }

    // What was good is not fetched again, and what is asked for by name and is not there is told.
    let (report, _) = target.migrate(&[&url(&source), "default", lost.hash_part()]);
    assert_eq!(report["failed"][0]["path"], lost.hash_part());
    let (report, _) = target.migrate(&[&url(&source), "default", "--all"]);
    assert_eq!(report["copied"], json!([]));
    assert_eq!(report["present"], arrived.len());
    target.server.stop();
}

#[test]
fn a_reference_that_comes_from_elsewhere_can_be_allowed() {
    let target = Target::start();
    let closure = Closure::tiny().of_package("grep");
    let source = nix_cache(&closure, "none");
    let libc = closure.paths.iter().find(|path| path.path.contains("-libc6-")).unwrap();
    fs::remove_file(narinfo(&source, libc)).unwrap();
    let (report, output) = target.migrate(&[&url(&source), "default", &closure.top]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!failed(&report).is_empty());
    let report =
        target.migrate_ok(&[&url(&source), "default", &closure.top, "--allow-missing-references"]);
    assert!(copied(&report).contains(&closure.top));
    target.server.stop();
}

/// The most memory that the process has had, in bytes; nothing once it has ended.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn disk_and_memory_hold_a_few_paths_at_a_time() {
    let target = Target::start();
    let closure = if places::full_matrix() { Closure::full() } else { Closure::tiny() };
    let source = nix_cache(&closure, "none");
    let mut command = target.command(&[&url(&source), "default", "--all", "--jobs", "2"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut most, mut peak) = (0, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak = peak.max(peak_memory(child.id()).unwrap_or_default());
        for dir in fs::read_dir(target.tmp()).unwrap().flatten() {
            most = most.max(entries(&dir.path()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success());
    // What was let go of may take a moment to go.
    assert!((1..=2 * 2 + 4).contains(&most), "{most} paths were on disk");
    assert!(peak < 256 << 20, "{peak} bytes of memory");
    assert_eq!(entries(&target.tmp()), 0);
    target.assert_served("default", &closure);
    target.server.stop();
}
