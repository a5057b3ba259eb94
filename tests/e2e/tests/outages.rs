//! A bucket or a database that is away for a while: what can be answered is, what cannot be is 503
//! within a time, nothing is said to be absent that is only out of reach, and once they are back all
//! is well without a restart.
//!
//! Every test here has an S3 server or a PostgreSQL of its own.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and figures are there to be read"
)]

use std::time::{Duration, Instant};

use granary_e2e::background::eventually;
use granary_e2e::backing::below;
use granary_e2e::codec::Compression;
use granary_e2e::http::Answer;
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Backing, Http, Server, narinfo, packs, places};
use granary_test_services::{Postgres, S3Server};
use serde_json::Value;
use tempfile::TempDir;

/// In which an answer comes when what it needs is away: before clients and proxies give up.
const PROMPT: Duration = Duration::from_secs(40);
/// In which one comes that needs nothing from elsewhere.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A server with one path, on a bucket and a database that nobody else uses.
struct Place {
    s3: S3Server,
    postgres: Postgres,
    server: Server,
    upload: Upload,
    nar: Vec<u8>,
    random: Random,
    _data: TempDir,
}

impl Place {
    fn new() -> Self {
        let (s3, postgres, data) = (S3Server::start(), Postgres::start(), places::scratch());
        let store = below(&s3.bucket("own"), "place");
        let index = postgres.database("own");
        Backing::set(data.path(), Some((&store, &s3.dir().join("own/place"))), Some(&index));
        let server = Server::start(data.path());
        let mut random = Random::from_environment();
        let nar = random.nar();
        let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
        let http = server.http();
        assert_eq!(push(&upload, &http).status, 201);
        Self { s3, postgres, server, upload, nar, random, _data: data }
    }

    /// What `/readyz` says of a part: its status, and its text for `store` or `index`.
    fn ready(&self, part: &str) -> (u16, String) {
        let answer = Http::anonymous(&self.server.origin()).get("readyz");
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(said["ready"], answer.status == 200, "{said}");
        (answer.status, said[part].as_str().expect("a text").to_owned())
    }

    fn assert_alive(&self) {
        let begun = Instant::now();
        assert_eq!(Http::anonymous(&self.server.origin()).get("healthz").status, 200);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }

    fn nar_url(&self) -> String {
        let text = self.server.http().get(&self.upload.narinfo_path()).text();
        narinfo::parse(&text)["URL"].to_owned()
    }

    /// A push and pulls work, of what was there before as well.
    fn assert_well(&mut self) {
        eventually("it is ready again", || self.ready("store").0 == 200);
        let http = self.server.http();
        let answer = http.get(&self.nar_url());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let nar = zstd::stream::decode_all(&answer.body[..]).expect("it is whole");
        assert!(nar == self.nar, "other bytes");
        let other = self.other();
        // What could not be stored is tried again every other second, and pushes wait for that.
        eventually("a push is taken", || {
            let answer = push(&other, &http);
            assert!(matches!(answer.status, 201 | 503), "{} {}", answer.status, answer.text());
            answer.status == 201
        });
        assert_eq!(http.get(&other.narinfo_path()).status, 200);
    }

    /// A path that was not pushed yet.
    fn other(&mut self) -> Upload {
        let nar = self.random.nar();
        Upload::new(&self.random.hash_part(), &nar, Compression::Zstd)
    }
}

/// The answer to a push's last request, or to the first that did not succeed: a NAR may be taken in
/// whatever is away, that its path is published may not be said.
fn push(upload: &Upload, http: &Http) -> Answer {
    let nar = upload.put_nar(http);
    if nar.is_success() { upload.put_narinfo(http) } else { nar }
}

/// Fails unless an answer says, in time, that it is to be asked for again later.
fn assert_later(what: &str, ask: impl FnOnce() -> Answer) {
    let begun = Instant::now();
    let answer = ask();
    println!("{what}: {} after {:?}", answer.status, begun.elapsed());
    assert_eq!(answer.status, 503, "{what}: {}", answer.text());
    assert!(begun.elapsed() < PROMPT, "{what}: it took {:?}", begun.elapsed());
    let seconds = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert!(seconds.is_some(), "{what}: it does not say when to ask again");
}

#[test]
fn a_bucket_that_is_away_is_503_and_comes_back_without_a_restart() {
    let mut place = Place::new();
    place.server = place.server.restart_after(packs::forget_read);
    assert_eq!(place.ready("store"), (200, "ok".to_owned()));
    let (url, refused) = (place.nar_url(), place.other());
    place.s3.stop();

    let http = place.server.http();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_later("a NAR", || http.get(&url)));
        scope.spawn(|| assert_later("a push", || push(&refused, &http)));
        let begun = Instant::now();
        assert_eq!(http.get(&place.upload.narinfo_path()).status, 200, "it is known");
        assert_eq!(http.get(&refused.narinfo_path()).status, 404, "it is known not to be there");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        eventually("it is not ready", || place.ready("store").0 == 503);
        let (store, index) = (place.ready("store").1, place.ready("index").1);
        assert!(store != "ok" && index == "ok", "store: {store}, index: {index}");
        place.assert_alive();
    });
    assert_eq!(http.get(&refused.narinfo_path()).status, 404, "it was refused, and is there");

    place.s3.start_again();
    place.assert_well();
    assert_eq!(push(&refused, &http).status, 201);
    place.server.stop();
}

/// Takes the database away in one way, and gives it back in another.
fn without_its_database(away: fn(&Postgres), back: fn(&Postgres)) {
    let mut place = Place::new();
    assert_eq!(place.ready("index"), (200, "ok".to_owned()));
    let (refused, never_asked_for) = (place.other(), place.other());
    away(&place.postgres);

    let http = place.server.http();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_later("a narinfo", || http.get(&never_asked_for.narinfo_path())));
        scope.spawn(|| assert_later("a push", || push(&refused, &http)));
        eventually("it is not ready", || place.ready("index").0 == 503);
        let (store, index) = (place.ready("store").1, place.ready("index").1);
        assert!(store == "ok" && index != "ok", "store: {store}, index: {index}");
        place.assert_alive();
        // What it remembers it may tell. What it may not is that the path is gone.
        let known = http.get(&place.upload.narinfo_path()).status;
        assert!(matches!(known, 200 | 503), "{known}");
    });

    back(&place.postgres);
    place.assert_well();
    // A statement that a database received before it stood still may have been carried out since: 503
    // says that it has to be asked again, not that nothing was done.
    let doubtful = http.get(&refused.narinfo_path()).status;
    assert!(matches!(doubtful, 200 | 404), "{doubtful}");
    assert_eq!(push(&refused, &http).status, 201);
    place.server.stop();
}

#[test]
fn a_database_that_is_gone_is_503_and_comes_back_without_a_restart() {
    without_its_database(Postgres::kill_nine, Postgres::restart);
}

#[test]
fn a_database_that_stands_still_is_503_and_goes_on_without_a_restart() {
    without_its_database(Postgres::freeze, Postgres::thaw);
}
