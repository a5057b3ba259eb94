//! Bad uploads: each is refused with a 4xx that names what is wrong, and leaves nothing to be seen.

use granary_e2e::codec::{self, Compression};
use granary_e2e::http::Answer;
use granary_e2e::nar::{directory, file, nar, nested, string, strings, symlink};
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Http, Server, places};
use std::time::{Duration, Instant};

const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";
const OTHER_HASH: &str = "zyxwvsrqpnmlkjihgfdcba9876543210";

fn assert_refused(answer: &Answer, names: &[&str]) {
    assert!(answer.is_client_error(), "status {}: {}", answer.status, answer.text());
    assert_names(&answer.text(), names);
}

fn assert_names(text: &str, names: &[&str]) {
    let said = text.to_lowercase();
    let named = names.iter().any(|name| said.contains(&name.to_lowercase()));
    assert!(named, "the answer names none of {names:?}: {text:?}");
}

/// Fails if the path of `upload` can be seen: not now, and not after a restart.
fn assert_invisible(server: Server, upload: &Upload, nar_too: bool) {
    let look = |http: &Http| {
        assert_eq!(http.get(&upload.narinfo_path()).status, 404, "the narinfo is there");
        assert_eq!(http.head(&upload.narinfo_path()).status, 404);
        if nar_too {
            assert_eq!(http.get(&upload.info.url).status, 404, "{} is there", upload.info.url);
            assert_eq!(http.head(&upload.info.url).status, 404);
        }
    };
    look(&server.http());
    let server = server.restart();
    look(&server.http());
    server.stop();
}

/// Pushes a NAR as it is, under right hashes: only its own form is wrong.
fn assert_bad_nar(bytes: &[u8], names: &[&str]) {
    let data = places::scratch();
    let mut server = Server::start(data.path());
    for compression in [Compression::None, Compression::Zstd, Compression::Xz] {
        let upload = Upload::new(HASH, bytes, compression);
        let put_nar = upload.put_nar(&server.http());
        let put_narinfo = upload.put_narinfo(&server.http());
        assert!(put_narinfo.is_client_error(), "the narinfo of a bad NAR: {}", put_narinfo.status);
        assert_refused(if put_nar.is_success() { &put_narinfo } else { &put_nar }, names);
        assert_invisible(server, &upload, true);
        server = Server::start(data.path());
    }
}

/// Pushes a good NAR with a narinfo that `spoil` made wrong.
fn assert_bad_narinfo(spoil: impl FnOnce(&mut Upload), names: &[&str]) {
    let data = places::scratch();
    let server = Server::start(data.path());
    let good = Upload::new(HASH, &good_nar(), Compression::Zstd);
    let mut spoiled = good.clone();
    spoil(&mut spoiled);
    let answer = good.put_nar(&server.http());
    assert!(answer.is_success(), "{} {}", answer.status, answer.text());
    assert_refused(&spoiled.put_narinfo(&server.http()), names);
    assert_invisible(server, &spoiled, false);

    // And the place is not spoiled for the right one.
    let server = Server::start(data.path());
    assert!(good.put_narinfo(&server.http()).is_success());
    server.stop();
}

fn good_nar() -> Vec<u8> {
    nar(&directory(&[
        ("bin", directory(&[("hello", file(b"#!/bin/sh\n", true))])),
        ("lib", symlink("../lib64")),
        ("text", file(&Random::new(1).text(100_000), false)),
    ]))
}

#[test]
fn a_truncated_nar_is_refused() {
    let whole = good_nar();
    for cut in [whole.len() - 8, whole.len() - 1, whole.len() / 2, 30, 8, 0] {
        assert_bad_nar(&whole[..cut], &["truncated", "end", "eof", "short"]);
    }
}

#[test]
fn bytes_behind_a_nar_are_refused() {
    assert_bad_nar(&[good_nar(), vec![0; 8]].concat(), &["trailing", "after", "behind"]);
    assert_bad_nar(&[good_nar(), vec![b'x']].concat(), &["trailing", "after", "behind"]);
}

#[test]
fn something_else_than_a_nar_is_refused() {
    assert_bad_nar(b"<html>502 Bad Gateway</html>", &["magic", "nar"]);
    assert_bad_nar(&[string(b"nix-archive-2"), file(b"", false)].concat(), &["magic", "nar"]);
}

#[test]
fn unsorted_entries_are_refused() {
    let bytes = nar(&directory(&[("b", file(b"1", false)), ("a", file(b"2", false))]));
    assert_bad_nar(&bytes, &["order", "sorted"]);
}

#[test]
fn duplicate_names_are_refused() {
    let bytes = nar(&directory(&[("a", file(b"1", false)), ("a", file(b"2", false))]));
    assert_bad_nar(&bytes, &["duplicate", "twice", "order", "sorted"]);
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    for name in ["..", ".", "", "a/b", "/etc", "../../etc/passwd"] {
        assert_bad_nar(&nar(&directory(&[(name, file(b"x", false))])), &["name"]);
    }
}

#[test]
fn a_name_with_a_nul_is_refused() {
    assert_bad_nar(&nar(&directory(&[(b"a\0b", file(b"x", false))])), &["name"]);
}

#[test]
fn an_empty_symlink_target_is_refused() {
    assert_bad_nar(&nar(&symlink("")), &["target", "symlink"]);
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let mut bytes = nar(&file(b"abc", false));
    let end = bytes.len();
    // Before the closing parenthesis and its length stands the padding of "abc".
    bytes[end - 17] = 1;
    assert_bad_nar(&bytes, &["padding"]);
}

#[test]
fn an_absurd_length_is_refused() {
    for length in [u64::MAX, 1 << 63, 1 << 40] {
        let head = strings(&["nix-archive-1", "(", "type", "directory", "entry", "(", "name"]);
        assert_bad_nar(&[&head[..], &length.to_le_bytes()].concat(), &["name", "length", "long"]);
        let head = strings(&["nix-archive-1", "(", "type", "regular", "contents"]);
        assert_bad_nar(
            &[&head[..], &length.to_le_bytes()].concat(),
            &["length", "long", "large", "truncated", "end", "eof", "size"],
        );
    }
}

#[test]
fn nesting_without_end_is_refused() {
    assert_bad_nar(&nested(10_000), &["deep", "depth", "nest"]);
}

#[test]
fn a_body_that_is_not_of_its_compression_is_refused() {
    let data = places::scratch();
    let mut server = Server::start(data.path());
    for compression in [Compression::Xz, Compression::Zstd, Compression::Bzip2, Compression::Br] {
        let mut upload = Upload::new(HASH, &good_nar(), compression);
        upload.body = Random::new(7).bytes(10_000);
        let file_hash = codec::sha256_nix32(&upload.body);
        upload.info.url = format!("nar/{file_hash}.nar{}", compression.suffix());
        assert_refused(
            &upload.put_nar(&server.http()),
            &[compression.name(), "compress", "decode", "brotli"],
        );
        assert_invisible(server, &upload, true);
        server = Server::start(data.path());
    }
}

#[test]
fn a_wrong_nar_hash_is_refused() {
    let wrong = format!("sha256:{}", codec::sha256_nix32(b"another"));
    assert_bad_narinfo(|upload| upload.info.nar_hash = wrong, &["NarHash"]);
}

#[test]
fn a_wrong_nar_size_is_refused() {
    assert_bad_narinfo(|upload| upload.info.nar_size += 1, &["NarSize"]);
    assert_bad_narinfo(|upload| upload.info.nar_size = 0, &["NarSize"]);
}

#[test]
fn a_wrong_file_hash_is_refused() {
    let wrong = format!("sha256:{}", codec::sha256_nix32(b"another"));
    assert_bad_narinfo(|upload| upload.info.file_hash = wrong, &["FileHash"]);

    // The URL of a NAR is a FileHash, too.
    let data = places::scratch();
    let server = Server::start(data.path());
    let mut upload = Upload::new(HASH, &good_nar(), Compression::Zstd);
    upload.info.url = format!("nar/{}.nar.zst", codec::sha256_nix32(b"another"));
    assert_refused(&upload.put_nar(&server.http()), &["FileHash"]);
    assert_invisible(server, &upload, true);
}

#[test]
fn a_wrong_file_size_is_refused() {
    assert_bad_narinfo(|upload| upload.info.file_size += 1, &["FileSize"]);
}

#[test]
fn a_store_path_of_another_hash_is_refused() {
    let other = format!("/nix/store/{OTHER_HASH}-e2e");
    assert_bad_narinfo(|upload| upload.info.store_path = other, &["StorePath"]);
}

#[test]
fn a_store_path_that_is_none_is_refused() {
    for path in ["/etc/passwd", "/nix/store/short-e2e", "", &format!("/nix/store/{HASH}-a/b")] {
        assert_bad_narinfo(|upload| upload.info.store_path = path.to_owned(), &["StorePath"]);
    }
}

#[test]
fn a_reference_that_is_none_is_refused() {
    let reference = vec!["not-a-store-path".to_owned()];
    assert_bad_narinfo(|upload| upload.info.references = reference, &["References"]);
}

#[test]
fn a_url_that_leaves_the_cache_is_refused() {
    for url in ["http://127.0.0.1:1/nar/x.nar", "../../etc/passwd", "/etc/passwd"] {
        assert_bad_narinfo(|upload| upload.info.url = url.to_owned(), &["URL"]);
    }
}

#[test]
fn a_narinfo_before_its_nar_is_refused() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let upload = Upload::new(HASH, &good_nar(), Compression::Zstd);
    assert_refused(&upload.put_narinfo(&server.http()), &["NAR", "URL"]);
    assert_invisible(server, &upload, true);
}

#[test]
fn a_narinfo_that_is_none_is_refused() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let upload = Upload::new(HASH, &good_nar(), Compression::Zstd);
    let http = server.http();
    assert!(upload.put_nar(&http).is_success());
    let good = upload.info.to_text();
    let path = upload.narinfo_path();
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        let without: String = good
            .lines()
            .filter(|line| !line.starts_with(&format!("{field}:")))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_refused(&http.put(&path, without.as_bytes()), &[field]);
    }
    let twice = format!("{good}References: \n");
    assert_refused(&http.put(&path, twice.as_bytes()), &["References"]);
    assert_refused(&http.put(&path, b"\xff\xfe\0garbage"), &["narinfo", "line", "UTF-8"]);
    assert_refused(&http.put(&path, b""), &["narinfo", "StorePath", "empty"]);
    assert_invisible(server, &upload, false);
}

#[test]
fn a_body_cut_short_leaves_nothing() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let upload = Upload::new(HASH, &good_nar(), Compression::None);
    let length = upload.body.len() as u64;
    for sent in [0, 1, upload.body.len() / 2, upload.body.len() - 1] {
        let answer = server.http().put_cut_short(&upload.info.url, length, &upload.body[..sent]);
        // A client that hung up need not be answered; if it is, then not with success.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{sent} bytes: {answer}");
    }
    // A whole NAR and a length that promises more.
    let answer = server.http().put_cut_short(&upload.info.url, length + 1, &upload.body);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(upload.put_narinfo(&server.http()).is_client_error());
    assert_invisible(server, &upload, true);
}

/// The start of a NAR of one file of 100 GB, and then as many zeros as that, compressed by
/// repeating the compressed form of `unit` zeros.
fn bomb(compression: Compression, unit: usize, units: usize) -> Vec<u8> {
    let mut head = strings(&["nix-archive-1", "(", "type", "regular", "contents"]);
    head.extend(100_000_000_000u64.to_le_bytes());
    let mut body = compression.compress(&head);
    let zeros = compression.compress(&vec![0; unit]);
    for _ in 0..units {
        body.extend(&zeros);
    }
    body
}

fn assert_bomb_is_defused(compression: Compression, unit: usize, units: usize) {
    const LIMIT: &str = "64MiB";
    let data = places::scratch();
    let server = Server::start_with(data.path(), &["--max-nar-size", LIMIT]);
    let before = server.peak_memory();
    let body = bomb(compression, unit, units);
    assert!(body.len() < 32 << 20, "the bomb itself must be small: {} bytes", body.len());
    let file_hash = codec::sha256_nix32(&body);
    let url = format!("nar/{file_hash}.nar{}", compression.suffix());

    let started = Instant::now();
    let (status, text) = server.http().put_with_curl(&url, &body);
    assert_eq!(status, 413, "{text}");
    assert_names(&text, &["max-nar-size", "NAR size", "NarSize", "large", "limit"]);
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    let grown = server.peak_memory() - before;
    assert!(grown < 512 << 20, "the server grew by {grown} bytes");
    assert_eq!(server.http().get(&url).status, 404);
    server.stop();
}

#[test]
fn a_zstd_bomb_is_answered_with_413() {
    assert_bomb_is_defused(Compression::Zstd, 1 << 28, 373);
}

#[test]
fn an_xz_bomb_is_answered_with_413() {
    assert_bomb_is_defused(Compression::Xz, 1 << 28, 373);
}

#[test]
fn a_nar_above_the_limit_is_answered_with_413_whatever_its_compression() {
    let data = places::scratch();
    let server = Server::start_with(data.path(), &["--max-nar-size", "1MiB"]);
    let small = nar(&file(&Random::new(3).text(900_000), false));
    let large = nar(&file(&Random::new(3).text(1_100_000), false));
    for compression in Compression::ALL {
        let upload = Upload::new(HASH, &large, compression);
        let (status, text) = server.http().put_with_curl(&upload.info.url, &upload.body);
        assert_eq!(status, 413, "{compression:?}: {text}");
        let answer = Upload::new(HASH, &small, compression).put_nar(&server.http());
        assert!(answer.is_success(), "{compression:?}: {} {}", answer.status, answer.text());
    }
    server.stop();
}
