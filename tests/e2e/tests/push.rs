//! What a push costs: requests, bytes on the wire, time on a long line, memory; and what is left of
//! one that was killed. The figures are printed.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use granary_e2e::closure::StorePath;
use granary_e2e::packs::{self, CHUNK};
use granary_e2e::updates::updated;
use granary_e2e::{Closure, Combination, Home, Nix, Server, Store, Version, Wire, backing, places};
use tempfile::TempDir;

const MB: u64 = 1_000_000;
/// Of the client's as well as of the server's.
const MEMORY: u64 = 300 * MB;
/// What may be under way when somebody is killed: four bodies, and some messages.
const UNDER_WAY: u64 = 40 * MB;
/// On an object store a pack that was not full yet goes with the server, and what was in it is sent
/// again: nothing of it had been published.
const PACK: u64 = 128 << 20;

fn home(wire: &Wire, server: &Server) -> Home {
    Home::with_token(Version::V2_34, &wire.origin(), server.token())
}

/// How long, and how many bytes were sent.
fn measured(wire: &Wire, push: impl FnOnce()) -> (Duration, u64) {
    let (up, started) = (wire.up(), Instant::now());
    push();
    (started.elapsed(), wire.up() - up)
}

/// A server on a copy of what this one has.
fn twin(server: Server) -> (Server, TempDir, Server) {
    let copy = places::scratch();
    let server = server.restart_after(|data| backing::copy(data, copy.path()));
    let other = Server::start(copy.path());
    (server, copy, other)
}

/// Bytes of chunk records: all, and those of the first of each digest.
fn stored(data: &Path) -> (u64, u64) {
    let chunks = packs::all_records(data).into_iter().filter(|record| record.kind == CHUNK);
    let (mut all, mut once) = (0, HashMap::new());
    for chunk in chunks {
        all += chunk.size;
        once.insert(chunk.digest, chunk.size);
    }
    (all, once.values().sum())
}

/// What of `closure` is not in the other ones, by `zstd -3` of whole NARs.
fn whole_nars(nix: &Nix, closure: &Closure, others: &[&Closure]) -> u64 {
    let known = |path: &StorePath| {
        others.iter().any(|other| other.paths.iter().any(|there| there.path == path.path))
    };
    let missing: Vec<&StorePath> = closure.paths.iter().filter(|path| !known(path)).collect();
    assert!(!missing.is_empty());
    nix.zstd_nars(&closure.root, &missing)
}

fn assert_share(what: &str, sent: u64, whole: u64, percent: u64) {
    let share = sent as f64 * 100.0 / whole as f64;
    println!("{what}: {sent} bytes sent, {whole} as zstd NARs: {share:.1} %");
    assert!(sent * 100 <= whole * percent, "{what}: {share:.1} % is more than {percent} %");
}

#[test]
fn what_is_there_does_not_travel_again_and_a_long_line_is_no_matter() {
    let (closure, rebuilt) = (Closure::full(), Closure::full_rebuilt());
    let data = places::scratch();
    let server = Server::start(data.path());
    let nix = Nix::of(Version::V2_34, &server);
    let wire = Wire::to(&server.origin());
    let (time, sent) = measured(&wire, || {
        let peak = home(&wire, &server).start_push("default", &closure).finish();
        println!("the client had {} MB of memory", peak / MB);
        assert!(peak > 0 && peak < MEMORY, "the client had {peak} bytes of memory");
    });
    let peak = server.peak_memory();
    println!("{time:?}, {sent} bytes; the server had {} MB of memory", peak / MB);
    assert!(peak < MEMORY, "the server had {peak} bytes of memory");

    let times = (0..3).map(|_| {
        wire.take_seen();
        let (time, _) = measured(&wire, || {
            let report = home(&wire, &server).push("default", &closure);
            assert_eq!(report["present"], closure.paths.len());
        });
        let seen = wire.take_seen();
        assert!(seen.len() == 1, "more than one request: {seen:?}");
        time
    });
    let time = times.min().expect("three of them");
    println!("{} paths again: {time:?}", closure.paths.len());
    assert!(time < Duration::from_secs(1), "{time:?}");

    // Twice the same push to the same, near and far.
    let (server, _copy, other) = twin(server);
    let slow = Wire::slow(&other.origin(), Duration::from_millis(50));
    let (far, _) = measured(&slow, || drop(home(&slow, &other).push("default", &rebuilt)));
    let (near, sent) = measured(&wire, || drop(home(&wire, &server).push("default", &rebuilt)));
    println!("rebuilt: {near:?}, with 100 ms of round-trip time {far:?}");
    assert!(far <= 2 * near, "{far:?} is more than twice {near:?}");
    assert_share("rebuilt", sent, whole_nars(&nix, &rebuilt, &[&closure]), 10);

    let packages = ["libssl3", "libcurl4", "openssh-client", "git", "vim"];
    let (_store, patched) = updated(&nix, &rebuilt, &packages);
    let (_, sent) = measured(&wire, || drop(home(&wire, &server).push("default", &patched)));
    let whole = whole_nars(&nix, &patched, &[&closure, &rebuilt]);
    assert_share("updates of five packages", sent, whole, 75);
}

#[test]
fn a_push_goes_on_where_the_client_or_the_server_was_killed() {
    let closure = Closure::full();
    let data = places::scratch();
    let mut server = Server::start(data.path());
    let wire = Wire::to(&server.origin());
    let home = home(&wire, &server);
    let until = |bytes: u64| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while wire.up() < bytes {
            assert!(Instant::now() < deadline, "the push does not get to {bytes} bytes");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let push = home.start_push("default", &closure);
    until(120 * MB);
    push.kill_nine();
    let first = wire.up();

    let mut push = home.start_push("default", &closure);
    until(first + 120 * MB);
    assert!(push.runs(), "it is over before anything can be killed");
    server = server.restart_after_kill_nine();
    let peak = push.finish();
    assert!(peak < MEMORY, "the client had {peak} bytes of memory");

    let lost = match Combination::chosen().store {
        Store::Disk => 0,
        Store::S3 => PACK,
    };
    let (sent, (all, once)) = (wire.up(), stored(data.path()));
    println!("{sent} bytes sent in all, {once} of chunks stored");
    assert!(sent < once + once / 50 + 2 * UNDER_WAY + lost, "{sent} bytes sent for {once}");
    assert!(all <= once + once / 50 + 2 * UNDER_WAY, "{all} bytes stored of {once}");
    let report = home.push("default", &closure);
    assert_eq!(report["present"], closure.paths.len());
    let part = closure.of_package("git");
    let nix = Nix::of(Version::V2_26, &server);
    nix.assert_same(&nix.copy_from(&server.url(), &part.top), &part);
}

#[test]
fn eight_clients_at_once_store_one_copy() {
    let full = Closure::full();
    let parts = ["clang-14", "clang-14", "cmake", "cmake", "git", "gdb", "vim", "python3-numpy"];
    let parts = parts.map(|package| full.of_package(package));
    let data = places::scratch();
    let server = Server::start(data.path());
    let wire = Wire::to(&server.origin());
    let homes = [(); 8].map(|()| home(&wire, &server));
    let pushes: Vec<_> =
        homes.iter().zip(&parts).map(|(home, part)| home.start_push("default", part)).collect();
    for push in pushes {
        push.finish();
    }
    let (all, once) = stored(data.path());
    println!("{} bytes sent, {all} bytes of chunks stored, of which {once} once", wire.up());
    assert!(all * 100 <= once * 103, "{all} bytes of chunks for {once}");
    let nix = Nix::of(Version::V2_34, &server);
    for part in &parts[1..] {
        nix.assert_same(&nix.copy_from(&server.url(), &part.top), part);
    }
    server.stop();
    packs::decode_all(data.path());
}
