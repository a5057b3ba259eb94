//! Garbage is collected every second and hardly any time is granted, while clients of all kinds push the
//! same paths again and again, read, pin and delete them, and servers are killed with -9: what was
//! acknowledged and not deleted since is there, whole, at any time and in the end.
//!
//! `GRANARY_RACE_SECONDS` says for how long. Each test chooses its own store and index.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use granary_e2e::collector::collect;
use granary_e2e::race::{Race, Racer};
use granary_e2e::random::Random;
use granary_e2e::replicas::assert_sound;
use granary_e2e::{
    Backing, Cluster, Combination, Home, Index, Nginx, Server, Store, Version, packs, places, ports,
};

/// How long in CI.
const SECONDS: u64 = 15;
const COLLECTING: [&str; 4] = ["--gc-interval", "1s", "--gc-grace", "2s"];
/// How old a narinfo that a replica remembers may be.
const NARINFO_AGE: Duration = Duration::from_secs(10);

/// Nix 2.8 does not push: see `killed_replicas`.
const RACERS: [Racer; 10] = [
    Racer::GranaryPush,
    Racer::GranaryPush,
    Racer::NixPush(Version::V2_26),
    Racer::NixPush(Version::V2_34),
    Racer::HandPush,
    Racer::HandPush,
    Racer::Pin,
    Racer::Delete,
    Racer::NixPull(Version::V2_34),
    Racer::HandPull,
];

fn duration() -> Duration {
    let given = std::env::var("GRANARY_RACE_SECONDS");
    let given = given.map(|given| given.parse().expect("a number of seconds"));
    Duration::from_secs(given.unwrap_or(SECONDS))
}

fn home(origin: &str, token: &str) -> Home {
    Home::with_token(Version::V2_34, origin, token)
}

#[test]
fn a_server_that_collects_and_is_killed_loses_nothing_that_was_not_deleted() {
    let (data, mut random) = (places::scratch(), Random::from_environment());
    Backing::on(data.path(), Combination { store: Store::Disk, index: Index::Sled });
    let mut server = Server::start_on(data.path(), ports::free(), &COLLECTING);
    let (origin, token) = (server.origin(), server.token().to_owned());
    let identity = (&token[..], &server.public_key().to_owned()[..]);
    let race = Race::new(&origin, identity, Duration::ZERO, &mut random);

    let (mut kills, mut seen, mut running) = (0, BTreeSet::new(), Some(server));
    race.run(&mut random, &RACERS, |random| {
        let end = Instant::now() + duration();
        while Instant::now() < end && race.goes_on() {
            std::thread::sleep(Duration::from_millis(1500 + random.below(2500)));
            running = running.take().map(Server::restart_after_kill_nine);
            seen.extend(packs::names(data.path()));
            kills += 1;
        }
    });
    server = running.expect("it runs");
    race.assert_all_there(&origin);
    let report = collect(&home(&origin, &token), &origin, &["--grace", "0s"]);
    race.assert_all_there(&origin);
    server = server.restart_without_its_index();
    race.assert_all_there(&origin);
    server.stop();
    assert_sound(data.path());
    let removed = seen.difference(&packs::names(data.path())).count();
    println!("{kills} kills, {} paths certain, {removed} packs removed", race.certain());
    assert!(removed > 0, "nothing was ever collected: {report:#}");
    assert!(kills >= 2 && race.certain() > 0);
}

#[test]
fn replicas_that_collect_and_are_killed_lose_nothing_that_was_not_deleted() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::without_servers();
    (0..2).for_each(|_| cluster.add(&COLLECTING));
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let (token, public_key, data) = (a.token(), a.public_key(), a.data().to_owned());
    let origins = [a.origin(), b.origin()];
    let nginx = Nginx::before(&[a.port(), b.port()]);
    let race = Race::new(&nginx.origin(), (&token, &public_key), NARINFO_AGE, &mut random);

    let (mut kills, mut seen) = (0, BTreeSet::new());
    race.run(&mut random, &RACERS, |random| {
        let end = Instant::now() + duration();
        while Instant::now() < end && race.goes_on() {
            std::thread::sleep(Duration::from_millis(1000 + random.below(2500)));
            let replica = &mut cluster.replicas[kills % 2];
            replica.kill_nine();
            std::thread::sleep(Duration::from_millis(random.below(700)));
            // The other one is not killed before this one is ready.
            replica.start();
            seen.extend(packs::names(&data));
            kills += 1;
        }
    });
    origins.iter().for_each(|origin| race.assert_all_there(origin));
    let report = collect(&home(&origins[0], &token), &origins[0], &["--grace", "0s"]);
    origins.iter().for_each(|origin| race.assert_all_there(origin));
    cluster.stop();
    cluster.assert_sound();
    let removed = seen.difference(&packs::names(&data)).count();
    println!("{kills} kills, {} paths certain, {removed} packs removed", race.certain());
    assert!(removed > 0, "nothing was ever collected: {report:#}");
    assert!(kills >= 2 && race.certain() > 0);
}
