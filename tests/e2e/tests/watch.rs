//! Watching a real Nix store: what becomes valid in it is in the cache in the end, whatever happens
//! to the watcher and the server meanwhile.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use granary_e2e::background::eventually;
use granary_e2e::random::Random;
use granary_e2e::{Background, ChrootStore, Closure, FaultyProxy, Nix, Server, Version, places};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// What watchers are started with, unless a test wants it otherwise: only events bring paths.
const NO_POLL: [&str; 2] = ["--poll-interval", "1h"];

/// A machine with a Nix store, and a server elsewhere.
struct Machine {
    dir: TempDir,
    nix: Nix,
    store: ChrootStore,
    made: std::cell::Cell<u64>,
}

impl Machine {
    fn new(version: Version, server: &Server) -> Self {
        let machine = Self {
            dir: places::scratch(),
            nix: Nix::of(version, server),
            store: ChrootStore::empty(),
            made: std::cell::Cell::new(0),
        };
        machine.set_token(server.token());
        // The store has a database from now on.
        machine.add(1);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn set_token(&self, token: &str) {
        fs::write(self.path("token"), token).expect("written");
    }

    /// Files that no store has yet.
    fn files(&self, count: usize) -> Vec<PathBuf> {
        let from = self.made.get();
        self.made.set(from + count as u64);
        let file = |number: u64| {
            let path = self.path(&format!("file-{number}"));
            fs::write(&path, Random::new(number).bytes(50_000)).expect("written");
            path
        };
        (from..from + count as u64).map(file).collect()
    }

    /// New valid paths.
    fn add(&self, count: usize) -> Vec<String> {
        self.nix.add(&self.store, &self.files(count))
    }

    fn granary(&self, server: &Server, arguments: &[&str]) -> Command {
        let mut command = Command::new(places::granary());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("NIX_REMOTE", format!("local?root={}", self.store.root().display()))
            .env("GRANARY_SERVER", server.origin())
            .env("GRANARY_TOKEN_FILE", self.path("token"))
            .stdin(Stdio::null());
        command
    }

    /// A watcher that has begun.
    fn watch(&self, server: &Server, options: &[&str]) -> Background {
        let arguments = [&["watch-store", "default"], options].concat();
        let watcher = Background::start(&mut self.granary(server, &arguments));
        watcher.wait_for("pushing to default");
        watcher
    }

    fn queue(&self, server: &Server, arguments: &[&str]) -> Output {
        let arguments = [&["queue"], arguments].concat();
        self.granary(server, &arguments).output().expect("granary runs")
    }

    fn listed(&self, server: &Server) -> Value {
        let output = self.queue(server, &["list", "default", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What Nix does after a build.
    fn hook(&self, server: &Server, paths: &[String]) {
        let mut command = self.granary(server, &["queue", "add", "default"]);
        let output = command.env("OUT_PATHS", paths.join(" ")).output().expect("granary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn has(server: &Server, path: &str) -> bool {
    let hash = &path["/nix/store/".len()..][..32];
    server.http().get(&format!("{hash}.narinfo")).status == 200
}

fn arrive(server: &Server, paths: &[String]) {
    for path in paths {
        eventually(&format!("{path} is in the cache"), || has(server, path));
    }
}

fn start() -> (TempDir, Server) {
    let data = places::scratch();
    let server = Server::start(data.path());
    (data, server)
}

/// Lines that say that a path was pushed.
fn pushed(lines: &[String], path: &str) -> usize {
    let name = path.strip_prefix("/nix/store/").expect("a store path");
    lines.iter().filter(|line| line.contains(&format!("pushed {name}"))).count()
}

#[test]
fn paths_of_every_nix_that_become_valid_while_it_watches_arrive() {
    for version in Version::ALL {
        let (_data, server) = start();
        let machine = Machine::new(version, &server);
        let before = machine.add(1);
        let watcher = machine.watch(&server, &NO_POLL);
        let first = machine.add(2);
        arrive(&server, &first);
        let second = machine.add(1);
        arrive(&server, &second);
        let lines = watcher.stop();
        for path in first.iter().chain(&second) {
            assert_eq!(pushed(&lines, path), 1, "{version:?} {path}");
        }
        assert!(!has(&server, &before[0]), "what was there is pushed with --all only");
    }
}

#[test]
fn a_closure_that_is_copied_in_arrives_whole_and_nix_takes_it_back() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_34, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    let closure = Closure::tiny();
    machine.nix.copy_into(&machine.store, &closure);
    arrive(&server, &closure.paths.iter().map(|path| path.path.clone()).collect::<Vec<_>>());
    watcher.stop();
    let back = Nix::of(Version::V2_34, &server);
    back.assert_same(&back.copy_from(&server.url(), &closure.top), &closure);
}

#[test]
fn all_pushes_what_is_there_and_filters_keep_out() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let there = machine.add(3);
    let keep_out = format!("!{}", there[1].split_once('-').expect("a name").1);
    let watcher = machine.watch(&server, &["--all", "--filter", &keep_out]);
    arrive(&server, &[there[0].clone(), there[2].clone()]);
    watcher.stop();
    assert!(!has(&server, &there[1]));
}

#[test]
fn what_is_added_while_the_server_is_down_arrives_when_it_is_back() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_26, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    let mut paths = Vec::new();
    let server = server.restart_after(|_| {
        paths.extend(machine.add(2));
        watcher.wait_for("trying again");
        // It goes on taking paths in.
        paths.extend(machine.add(2));
    });
    arrive(&server, &paths);
    watcher.stop();
}

#[test]
fn a_watcher_killed_at_work_loses_nothing_and_pushes_nothing_twice() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_34, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    let mut paths = Vec::new();
    for _ in 0..8 {
        paths.extend(machine.add(10));
    }
    watcher.wait_for("pushed ");
    watcher.kill_nine();
    // While nobody watches.
    paths.extend(machine.add(3));
    let there: Vec<_> = paths.iter().filter(|path| has(&server, path)).cloned().collect();
    assert!(there.len() < paths.len());
    let watcher = machine.watch(&server, &NO_POLL);
    arrive(&server, &paths);
    let lines = watcher.stop();
    for path in &paths {
        // What was on its way when the watcher died may have arrived a moment later.
        assert!(pushed(&lines, path) <= usize::from(!there.contains(path)), "{path}");
    }
    assert_eq!(machine.listed(&server)["waiting"], Value::Array(Vec::new()));
}

#[test]
fn sigterm_pushes_what_is_there_before_it_ends() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    let paths = machine.add(20);
    watcher.stop();
    assert!(paths.iter().all(|path| has(&server, path)));
    assert_eq!(machine.listed(&server)["waiting"], Value::Array(Vec::new()));
}

#[test]
fn an_end_takes_no_longer_than_it_may_and_leaves_the_rest_in_the_queue() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_26, &server);
    let mut watcher = Some(machine.watch(&server, &["--flush-timeout", "2s"]));
    let mut paths = Vec::new();
    let server = server.restart_after(|_| {
        paths = machine.add(2);
        let watcher = watcher.take().expect("once");
        watcher.wait_for("trying again");
        let since = Instant::now();
        let lines = watcher.stop();
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        assert!(lines.iter().any(|line| line.contains("stays in")), "{lines:#?}");
    });
    assert_eq!(machine.listed(&server)["waiting"].as_array().map(Vec::len), Some(2));
    let watcher = machine.watch(&server, &NO_POLL);
    arrive(&server, &paths);
    watcher.stop();
}

#[test]
fn bad_paths_stop_nothing_and_are_told() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_34, &server);
    let paths = machine.add(5);
    let [gone, changed] = [&paths[1], &paths[3]].map(|path| machine.store.real(path));
    fs::remove_file(gone).expect("removed");
    fs::set_permissions(&changed, fs::Permissions::from_mode(0o644)).expect("writable");
    fs::write(&changed, b"something else").expect("changed");
    machine.hook(&server, &paths);
    let watcher = machine.watch(&server, &NO_POLL);
    arrive(&server, &[paths[0].clone(), paths[2].clone(), paths[4].clone()]);
    let later = machine.add(1);
    arrive(&server, &later);
    let bad = || machine.listed(&server)["failed"].as_array().map_or(0, Vec::len);
    eventually("both are noted", || bad() == 2);
    let failed = machine.listed(&server)["failed"].clone();
    for path in [&paths[1], &paths[3]] {
        let name = path.strip_prefix("/nix/store/").expect("a store path");
        let found = failed.as_array().expect("a list").iter().find(|failed| failed["path"] == name);
        let found = found.unwrap_or_else(|| panic!("{path} in {failed}"));
        assert_eq!(found["attempts"], 1);
        assert!(found["next"].is_u64() && !found["error"].as_str().expect("why").is_empty());
        watcher.wait_for(&format!("not pushed: {name}"));
    }
    // Repaired, and tried once more.
    let number = |path: &str| path.rsplit_once("file-").expect("a name").1.to_owned();
    for path in [&paths[1], &paths[3]] {
        let from = machine.path(&format!("file-{}", number(path)));
        let to = machine.store.real(path);
        fs::copy(from, &to).expect("copied");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o444)).expect("read-only");
    }
    assert!(machine.queue(&server, &["retry", "default"]).status.success());
    arrive(&server, &paths);
    watcher.stop();
    assert_eq!(machine.listed(&server)["failed"], Value::Array(Vec::new()));
}

#[test]
fn the_hook_needs_neither_watcher_nor_server_nor_time() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let paths = machine.add(3);
    let mut took = Duration::MAX;
    let server = {
        let origin = server.origin();
        server.restart_after(|_| {
            for path in &paths {
                let mut hook = Command::new(places::granary());
                hook.args(["queue", "add", &format!("{origin}/default")])
                    .env_clear()
                    .env("HOME", machine.dir.path())
                    .env("OUT_PATHS", path)
                    .env("DRV_PATH", "/nix/store/00000000000000000000000000000000-x.drv")
                    .env("NIX_REMOTE", format!("local?root={}", machine.store.root().display()));
                let since = Instant::now();
                assert!(hook.status().expect("it runs").success());
                took = took.min(since.elapsed());
            }
        })
    };
    println!("the hook took {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(machine.listed(&server)["waiting"].as_array().map(Vec::len), Some(3));
    let watcher = machine.watch(&server, &["--no-store"]);
    arrive(&server, &paths);
    let unseen = machine.add(1);
    let hooked = machine.add(1);
    machine.hook(&server, &hooked);
    arrive(&server, &hooked);
    watcher.stop();
    assert!(!has(&server, &unseen[0]), "--no-store watches no store");
}

#[test]
fn a_poll_finds_what_was_registered_long_after_it_appeared() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_26, &server);
    let other = ChrootStore::empty();
    let [path] = &machine.nix.add(&other, &machine.files(1))[..] else { panic!("one path") };
    fs::copy(other.real(path), machine.store.real(path)).expect("copied");
    let watcher = machine.watch(&server, &["--poll-interval", "1s"]);
    machine.nix.load_db(machine.store.root(), &machine.nix.dump_db(&other, path));
    arrive(&server, std::slice::from_ref(path));
    watcher.stop();
}

#[test]
fn what_inotify_forgets_is_found_all_the_same() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_34, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    watcher.signal(Signal::STOP);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux");
    let limit: usize = limit.trim().parse().expect("a number");
    let store = machine.store.real("/nix/store");
    for number in 0..limit / 2 + 1000 {
        let path = store.join(format!(".noise-{number}"));
        fs::write(&path, b"").expect("written");
        fs::remove_file(&path).expect("removed");
    }
    let paths = machine.add(2);
    watcher.signal(Signal::CONT);
    arrive(&server, &paths);
    watcher.wait_for("inotify lost events");
    watcher.stop();
}

#[test]
fn a_refused_token_is_told_and_a_new_one_is_taken_at_once() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    machine.set_token("sesame");
    let watcher = machine.watch(&server, &NO_POLL);
    let paths = machine.add(1);
    watcher.wait_for("does not take the token");
    assert!(watcher.lines().iter().all(|line| !line.contains("sesame")));
    assert!(!has(&server, &paths[0]));
    machine.set_token(server.token());
    arrive(&server, &paths);
    watcher.stop();
}

#[test]
fn a_second_signal_ends_at_once_and_two_do_not_push_from_one_queue() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_26, &server);
    let watcher = machine.watch(&server, &NO_POLL);
    let second = machine.granary(&server, &["watch-store", "default"]).output().expect("it runs");
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process already pushes"));
    let mut watcher = Some(watcher);
    let server = server.restart_after(|_| {
        machine.add(1);
        let watcher = watcher.take().expect("once");
        watcher.wait_for("trying again");
        watcher.signal(Signal::TERM);
        watcher.wait_for("stopping");
        watcher.signal(Signal::INT);
        let (status, lines) = watcher.end();
        assert_eq!(status.code(), Some(1), "{lines:#?}");
    });
    assert_eq!(machine.listed(&server)["waiting"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_path_that_the_server_fails_at_stops_no_other() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let proxy = FaultyProxy::start(&server.origin());
    let granary = |arguments: &[&str]| {
        let mut command = machine.granary(&server, arguments);
        command.env("GRANARY_SERVER", proxy.origin());
        command
    };
    let hash = |path: &String| path["/nix/store/".len()..][..32].to_owned();
    let listed = |what: &str| {
        let output = granary(&["queue", "list", "default", "--json"]).output().expect("it runs");
        let listed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        listed[what].as_array().expect("a list").len()
    };
    let enqueue = |paths: &[String]| {
        let mut command = granary(&["queue", "add", "default"]);
        assert!(command.env("OUT_PATHS", paths.join(" ")).status().expect("it runs").success());
    };
    let watcher = Background::start(&mut granary(&["watch-store", "default", "--no-store"]));
    for (round, status) in [500, 400].into_iter().enumerate() {
        let paths = machine.add(3);
        proxy.fail(status, &[&hash(&paths[1])]);
        enqueue(&paths);
        arrive(&server, &[paths[0].clone(), paths[2].clone()]);
        eventually("the bad one is set aside", || listed("failed") == round + 1);
        assert!(!has(&server, &paths[1]));
    }
    // If the server fails at all of them, none is to blame.
    let paths = machine.add(2);
    proxy.fail(500, &[&hash(&paths[0]), &hash(&paths[1])]);
    enqueue(&paths);
    let before = watcher.count("trying again");
    eventually("it tries again", || watcher.count("trying again") > before);
    assert_eq!((listed("waiting"), listed("failed")), (2, 2));
    proxy.fail(500, &[]);
    arrive(&server, &paths);
    watcher.stop();
}

fn nix_store_add(machine: &Machine, file: &Path, then: &str) -> [String; 3] {
    // The command has the environment of granary, and with it the store.
    let conf = machine.path("nix.conf");
    fs::write(&conf, "build-users-group =\n").expect("written");
    let dir = machine.dir.path().display();
    let script = format!("NIX_CONF_DIR={dir} nix-store --add {}; {then}", file.display());
    ["sh".to_owned(), "-c".to_owned(), script]
}

fn watch_exec(machine: &Machine, server: &Server, options: &[&str], command: &[String]) -> Output {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let arguments = [&["watch-exec", "default"], options, &["--"], &command].concat();
    machine.granary(server, &arguments).output().expect("granary runs")
}

#[test]
fn watch_exec_pushes_what_the_command_adds_and_ends_as_it_does() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let before = machine.add(1);
    let file = &machine.files(1)[0];
    let output = watch_exec(&machine, &server, &[], &nix_store_add(&machine, file, "exit 7"));
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(has(&server, &path) && !has(&server, &before[0]), "{path}");

    let killed = watch_exec(&machine, &server, &[], &["sh", "-c", "kill -9 $$"].map(str::to_owned));
    assert_eq!(killed.status.code(), Some(128 + 9));
    let no_command = watch_exec(&machine, &server, &[], &["no-such-command".to_owned()]);
    assert_eq!(no_command.status.code(), Some(127));
}

#[test]
fn watch_exec_passes_signals_on() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_8, &server);
    let script = "trap 'exit 9' TERM; echo ready >&2; while :; do sleep 0.1; done";
    let arguments = ["watch-exec", "default", "--", "sh", "-c", script];
    let running = Background::start(&mut machine.granary(&server, &arguments));
    running.wait_for("ready");
    running.signal(Signal::TERM);
    assert_eq!(running.end().0.code(), Some(9));
}

#[test]
fn watch_exec_fails_for_a_failed_push_only_if_it_is_to() {
    let (_data, server) = start();
    let machine = Machine::new(Version::V2_26, &server);
    machine.set_token("sesame");
    for (options, code) in [(&[][..], 0), (&["--strict"], 1)] {
        let file = &machine.files(1)[0];
        let command = nix_store_add(&machine, file, "exit 0");
        let output = watch_exec(&machine, &server, options, &command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("1 path was not pushed"), "{said}");
    }
    let left = fs::read_dir(machine.dir.path()).expect("readable").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("watch-exec"));
    assert_eq!(left.count(), 0, "its queue goes with it");
}
