//! Two replicas behind nginx, clients of all kinds that push and pull, and every few seconds one of
//! the replicas is killed with -9 and started again: nothing acknowledged is lost, and nobody
//! who tries as often as Nix does goes without.
//!
//! `GRANARY_CHAOS_SECONDS` says for how long.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::time::{Duration, Instant};

use granary_e2e::crowd::{Client, Crowd, assert_all_there};
use granary_e2e::random::Random;
use granary_e2e::{Cluster, Nginx, Nix, Version, made_up};

/// How long in CI.
const SECONDS: u64 = 20;
/// Made up for each second: as many as get pushed, or more.
const PATHS_A_SECOND: u64 = 5;

/// Nix 2.8 does not push: it never ends once a PUT of its was answered with 503, which nginx does when
/// a replica dies that has begun to read it.
const CLIENTS: [Client; 8] = [
    Client::GranaryPush,
    Client::ClosurePush,
    Client::NixPush(Version::V2_26),
    Client::NixPush(Version::V2_34),
    Client::HandPush,
    Client::NixPull(Version::V2_8),
    Client::NixPull(Version::V2_34),
    Client::HandPull,
];

#[test]
fn replicas_that_are_killed_in_turn_lose_nothing_acknowledged() {
    let seconds = std::env::var("GRANARY_CHAOS_SECONDS");
    let seconds = seconds.map_or(SECONDS, |given| given.parse().expect("a number of seconds"));
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let (token, public_key) = (a.token(), a.public_key());
    let origins = [a.origin(), b.origin()];
    let nginx = Nginx::before(&[a.port(), b.port()]);
    let nix = Nix::with(Version::V2_34, &token, &public_key);
    let (store, paths) = made_up::store(&nix, &mut random, (seconds * PATHS_A_SECOND) as usize);
    let crowd = Crowd::new(&nginx.origin(), (&token, &public_key), (store.root(), &paths));

    let mut kills = 0;
    crowd.work(&mut random, &CLIENTS, |random| {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end && crowd.goes_on() {
            std::thread::sleep(Duration::from_millis(500 + random.below(2000)));
            let replica = &mut cluster.replicas[kills % 2];
            replica.kill_nine();
            std::thread::sleep(Duration::from_millis(random.below(700)));
            // The other one is not killed before this one is ready.
            replica.start();
            kills += 1;
        }
    });
    let all = crowd.acknowledged();
    println!("{kills} kills, {} acknowledged", all.len());
    assert!(kills >= 4, "each is to be killed twice: {kills}");
    std::thread::scope(|scope| {
        for origin in &origins {
            scope.spawn(|| assert_all_there(origin, &all));
        }
    });
    cluster.stop();
    cluster.assert_sound();
}
