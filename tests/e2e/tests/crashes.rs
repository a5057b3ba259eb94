//! `kill -9` at any moment: what was acknowledged stays, and the rest is whole or absent.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::codec::{self, Compression};
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Combination, Http, Server, Store, narinfo, places};
use std::sync::Mutex;
use std::time::Duration;

const ROUNDS: usize = 50;
const UPLOADERS: usize = 4;
/// Checked again in every round, of all that earlier rounds left.
const LOOKED_AT_AGAIN: usize = 5;

/// One store path that was sent, or half sent.
struct Attempt {
    narinfo_path: String,
    uploaded_url: String,
    compression: Compression,
    nar_hash: String,
    nar_size: usize,
    /// The PUT of the narinfo was answered with success.
    acknowledged: bool,
}

/// Pushes until the server is gone.
fn push_until_it_dies(http: &Http, mut random: Random, attempts: &Mutex<Vec<Attempt>>) {
    let mut last: Option<Vec<u8>> = None;
    loop {
        // Now and then the same NAR under another name, as rebuilds have it.
        let nar = match last.take() {
            Some(nar) if random.one_in(4) => nar,
            _ => random.nar(),
        };
        let compression = if random.one_in(2) { Compression::None } else { Compression::Zstd };
        let mut upload = Upload::new(&random.hash_part(), &[], Compression::None);
        let body = match compression {
            Compression::None => nar.clone(),
            // In this process: starting the tool would take longer than the upload.
            _ => zstd::bulk::compress(&nar, 1).expect("it compresses"),
        };
        let file_hash = codec::sha256_nix32(&body);
        upload.info.compression = compression.name().to_owned();
        upload.info.url = format!("nar/{file_hash}.nar{}", compression.suffix());
        upload.info.file_hash = format!("sha256:{file_hash}");
        upload.info.file_size = body.len() as u64;
        upload.info.nar_hash = format!("sha256:{}", codec::sha256_nix32(&nar));
        upload.info.nar_size = nar.len() as u64;
        upload.body = body;
        let index = {
            let mut attempts = attempts.lock().expect("no uploader panicked");
            attempts.push(Attempt {
                narinfo_path: upload.narinfo_path(),
                uploaded_url: upload.info.url.clone(),
                compression,
                nar_hash: codec::sha256_hex(&nar),
                nar_size: nar.len(),
                acknowledged: false,
            });
            attempts.len() - 1
        };
        let put = |path: &str, body: &[u8]| match http.try_put(path, body) {
            Ok(answer) => {
                assert!(answer.is_success(), "PUT {path}: {} {}", answer.status, answer.text());
                true
            }
            Err(_) => false,
        };
        if !put(&upload.info.url, &upload.body)
            || !put(&upload.narinfo_path(), upload.info.to_text().as_bytes())
        {
            return;
        }
        attempts.lock().expect("no uploader panicked")[index].acknowledged = true;
        last = Some(nar);
    }
}

/// Fails unless the attempt is fully there, or fully absent and never acknowledged.
fn check(http: &Http, attempt: &Attempt) {
    let answer = http.get(&attempt.narinfo_path);
    if answer.status == 404 && !attempt.acknowledged {
        return;
    }
    assert_eq!(
        answer.status,
        200,
        "{}, acknowledged: {}: {}",
        attempt.narinfo_path,
        attempt.acknowledged,
        answer.text()
    );
    let text = answer.text();
    let fields = narinfo::parse(&text);
    assert_eq!(fields["NarSize"], attempt.nar_size.to_string(), "{}", attempt.narinfo_path);
    let nar_hash = fields["NarHash"].strip_prefix("sha256:").expect("sha256:");
    assert_eq!(codec::nix32_to_hex(nar_hash), attempt.nar_hash, "{}", attempt.narinfo_path);
    check_nar(http, attempt, fields["URL"], Compression::named(fields["Compression"]));
    if fields["URL"] != attempt.uploaded_url {
        check_nar(http, attempt, &attempt.uploaded_url, attempt.compression);
    }
}

fn check_nar(http: &Http, attempt: &Attempt, url: &str, compression: Compression) {
    let answer = http.get(url);
    assert_eq!(answer.status, 200, "{url} of {}: {}", attempt.narinfo_path, answer.text());
    let nar = match compression {
        Compression::Zstd => zstd::stream::decode_all(&answer.body[..]).expect(url),
        other => other.decompress(&answer.body).expect(url),
    };
    assert_eq!(codec::sha256_hex(&nar), attempt.nar_hash, "{url} of {}", attempt.narinfo_path);
}

#[test]
fn kill_nine_loses_nothing_acknowledged() {
    let mut random = Random::from_environment();
    let data = places::scratch();
    let mut earlier: Vec<Attempt> = Vec::new();
    let mut server = Server::start(data.path());
    let mut acknowledged = 0;
    // A commit to a bucket takes several requests, and waits for others to share them.
    let longest = match Combination::chosen().store {
        Store::Disk => 351,
        Store::S3 => 1500,
    };
    for round in 0..ROUNDS {
        let attempts = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..UPLOADERS {
                let (http, random) = (server.http(), Random::new(random.number()));
                let attempts = &attempts;
                scope.spawn(move || push_until_it_dies(&http, random, attempts));
            }
            std::thread::sleep(Duration::from_millis(50 + random.below(longest)));
            server.kill_nine();
        });
        server = Server::start(data.path());
        let http = server.http();
        let attempts = attempts.into_inner().expect("no uploader panicked");
        attempts.iter().for_each(|attempt| check(&http, attempt));
        let kept = attempts.iter().filter(|attempt| attempt.acknowledged).count();
        acknowledged += kept;
        println!("round {round}: {} sent, {kept} acknowledged", attempts.len());
        for _ in 0..LOOKED_AT_AGAIN.min(earlier.len()) {
            check(&http, &earlier[random.below(earlier.len() as u64) as usize]);
        }
        earlier.extend(attempts);
    }
    let http = server.http();
    earlier.iter().for_each(|attempt| check(&http, attempt));
    // Else the server was always killed before it did anything.
    assert!(acknowledged > ROUNDS, "only {acknowledged} of {} acknowledged", earlier.len());
    println!("{acknowledged} of {} acknowledged, all there", earlier.len());
    server.stop();
}

#[test]
fn an_upload_in_progress_survives_a_restart() {
    let mut random = Random::from_environment();
    let data = places::scratch();
    let mut server = Server::start(data.path());
    for compression in Compression::ALL {
        for kill in [true, false] {
            let nar = random.nar();
            let upload = Upload::new(&random.hash_part(), &nar, compression);
            let answer = upload.put_nar(&server.http());
            assert!(answer.is_success(), "{} {}", answer.status, answer.text());
            server = if kill { server.restart_after_kill_nine() } else { server.restart() };

            let http = server.http();
            assert_eq!(http.get(&upload.narinfo_path()).status, 404, "not finished yet");
            let answer = upload.put_narinfo(&http);
            assert!(answer.is_success(), "{compression:?}: {} {}", answer.status, answer.text());
            let attempt = Attempt {
                narinfo_path: upload.narinfo_path(),
                uploaded_url: upload.info.url.clone(),
                compression,
                nar_hash: codec::sha256_hex(&nar),
                nar_size: nar.len(),
                acknowledged: true,
            };
            check(&http, &attempt);
        }
    }
    server.stop();
}

#[test]
fn a_server_that_is_told_to_stop_finishes_the_upload_it_is_taking() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let nar = granary_e2e::nar::nar(&granary_e2e::nar::file(&random.bytes(2_000_000), false));
    let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
    let answer = server.http().put_in_halves(&upload.info.url, &upload.body, || {
        server.ask_to_stop();
        std::thread::sleep(Duration::from_millis(500));
        assert!(server.http().try_get("nix-cache-info").is_err(), "it still takes requests");
    });
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let server = server.restart();
    assert!(upload.put_narinfo(&server.http()).is_success());
    assert_eq!(server.http().get(&upload.info.url).status, 200);
    server.stop();
}
