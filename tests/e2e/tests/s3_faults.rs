//! An object store and a database that misbehave: pushes and pulls take longer, or fail and say so,
//! but nothing acknowledged is lost and no byte is served that is not right.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::time::{Duration, Instant};

use granary_e2e::crowd::{Client, Crowd, assert_all_there};
use granary_e2e::pulls::{Fetched, fetch, within};
use granary_e2e::random::Random;
use granary_e2e::{Cluster, Nix, Version, made_up};
use granary_test_services::{Fault, FaultProxy};

/// How long each of the tests lets its clients work.
const LONG: Duration = Duration::from_secs(12);
const PATHS: usize = 60;
/// Less than what is pulled, so that reads go to the store.
const CACHE: [&str; 2] = ["--cache-size", "8MiB"];

/// What strikes which share of the requests, all at once.
const FAULTS: [(Fault, f64); 7] = [
    (Fault::SlowDown, 0.02),
    (Fault::InternalError, 0.05),
    (Fault::Stall, 0.01),
    (Fault::Cut, 0.03),
    (Fault::LostAnswer, 0.01),
    (Fault::FlipGet, 0.03),
    (Fault::FlipPut, 0.03),
];

#[test]
fn a_store_that_misbehaves_loses_nothing_and_serves_nothing_wrong() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::without_servers();
    let proxy = FaultProxy::start(cluster.s3.address());
    cluster.go_through(&proxy.endpoint());
    cluster.add(&CACHE);
    let server = &cluster.replicas[0];
    let (token, public_key) = (server.token(), server.public_key());
    let nix = Nix::with(Version::V2_34, &token, &public_key);
    let (store, paths) = made_up::store(&nix, &mut random, PATHS);
    let crowd = Crowd::new(&server.origin(), (&token, &public_key), (store.root(), &paths));
    let clients = [
        Client::GranaryPush,
        Client::ClosurePush,
        Client::NixPush(Version::V2_26),
        Client::HandPush,
        Client::NixPull(Version::V2_34),
        Client::HandPull,
        Client::HandPull,
    ];
    FAULTS.iter().for_each(|(fault, rate)| proxy.set(*fault, *rate));
    crowd.work(&mut random, &clients, |_| {
        let end = Instant::now() + LONG;
        while Instant::now() < end && crowd.goes_on() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let (_, cut, _) = crowd.troubles();
    assert_eq!(cut, 0, "answers of status 200 that were shorter than they said");
    for (fault, _) in FAULTS {
        let struck = proxy.struck(fault);
        println!("{fault:?}: struck {struck} of {:?}", proxy.counts());
        proxy.set(fault, 0.0);
    }
    // Some may be too rare for a short run; most are not.
    let struck = FAULTS.iter().filter(|(fault, _)| proxy.struck(*fault) > 0).count();
    assert!(struck >= 5, "hardly anything went wrong");

    let all = crowd.acknowledged();
    assert_all_there(&cluster.replicas[0].origin(), &all);
    // What was acknowledged is in the bucket, and not in the memory of a server or on its disk.
    cluster.replicas[0].kill_nine();
    cluster.add(&CACHE);
    assert_all_there(&cluster.replicas[1].origin(), &all);
    cluster.replicas[1].stop();
    cluster.assert_sound();
}

/// Nobody is told that a path is not there because it cannot be seen at the moment.
fn is_there_or_out_of_reach(origin: &str, hash_part: &str) {
    let path = format!("/default/{hash_part}.narinfo");
    match fetch(origin, "GET", &path, None, &[]) {
        Fetched::Whole { status: 200, .. }
        | Fetched::Whole { status: 503, retry_after: Some(_), .. } => {}
        other => panic!("GET {path} without a database: {other:?}"),
    }
}

#[test]
fn a_database_that_is_killed_mid_push_loses_nothing() {
    let mut random = Random::from_environment();
    let mut cluster = Cluster::start(2);
    let [a, b] = &cluster.replicas[..] else { panic!("two of them") };
    let (token, public_key) = (a.token(), a.public_key());
    let origins = [a.origin(), b.origin()];
    let nix = Nix::with(Version::V2_34, &token, &public_key);
    let (store, paths) = made_up::store(&nix, &mut random, PATHS);
    let crowd = Crowd::new(&a.origin(), (&token, &public_key), (store.root(), &paths));
    let clients = [
        Client::GranaryPush,
        Client::ClosurePush,
        Client::NixPush(Version::V2_34),
        Client::HandPush,
        Client::HandPush,
    ];
    let mut kills = 0;
    crowd.work(&mut random, &clients, |random| {
        let end = Instant::now() + LONG;
        while Instant::now() < end && crowd.goes_on() {
            std::thread::sleep(Duration::from_millis(800 + random.below(1500)));
            cluster.postgres.kill_nine();
            kills += 1;
            // What was acknowledged may be out of reach now. It is not gone.
            let known = crowd.acknowledged();
            let (origins, known) = (&origins, &known);
            std::thread::scope(|scope| {
                for (hash_part, _) in known.iter().rev().take(2) {
                    for origin in origins {
                        scope.spawn(move || is_there_or_out_of_reach(origin, hash_part));
                    }
                }
                std::thread::sleep(Duration::from_millis(200 + random.below(1000)));
                cluster.postgres.restart();
            });
        }
    });
    let all = crowd.acknowledged();
    println!("{kills} kills, {} acknowledged", all.len());
    assert!(kills >= 2, "it is to be killed twice: {kills}");
    for replica in &cluster.replicas {
        within(Duration::from_secs(20), "it is ready again", || replica.is_ready());
        assert_all_there(&replica.origin(), &all);
    }
    cluster.stop();
    cluster.assert_sound();
}
