//! What a binary cache holds beside NARs and narinfos: listings, logs, debug info, realisations.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::codec::Compression;
use granary_e2e::{Closure, Nix, Server, Version, places};

/// A name and a body for each kind of file that clients keep.
const FILES: [(&str, &[u8]); 5] = [
    ("log/1w1fff338fvdw53sqgamddn1b2xgds473-hello-2.12.drv", b"building\n"),
    ("debuginfo/5ed3fd4bb2b7a1f3b2b4d0e6f8a9c1d2e3f40516.debug", br#"{"archive":"../nar/x"}"#),
    ("debuginfo/5ed3fd4bb2b7a1f3b2b4d0e6f8a9c1d2e3f40516", br#"{"archive":"../nar/x"}"#),
    ("realisations/sha256:5ed3fd4bb2b7a1f3b2b4d0e6f8a9c1d2!out.doi", br#"{"id":"x"}"#),
    ("build-trace-v2/1w1fff338fvdw53sqgamddn1b2xgds473-hello.drv/out.doi", br#"{"outPath":"x"}"#),
];

#[test]
fn what_clients_keep_beside_nars_comes_back_as_it_went_in() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let http = server.http();
    for (path, body) in FILES {
        assert_eq!(http.get(path).status, 404, "{path}");
        assert_eq!(http.head(path).status, 404, "{path}");
        assert_eq!(server.anonymous().put(path, body).status, 401, "{path}");
        let headers = [("content-type", "text/x-of-its-own")];
        assert!(http.put_with(path, body, &headers).is_success(), "{path}");
    }
    let server = server.restart_without_its_index();
    for (path, body) in FILES {
        let escaped = path.replace('!', "%21").replace(':', "%3A");
        for path in [path, &escaped] {
            let answer = server.anonymous().get(path);
            assert_eq!((answer.status, &answer.body[..]), (200, body), "{path}");
            assert_eq!(answer.content_length(), Some(body.len() as u64), "{path}");
            assert_eq!(answer.header("content-type"), Some("text/x-of-its-own"), "{path}");
            assert_eq!(answer.header("content-encoding"), None, "{path}");
        }
        assert_eq!(server.http().head(path).status, 200, "{path}");
    }
    server.stop();
}

#[test]
fn a_compressed_log_keeps_its_content_encoding() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let log = "a line of a log\n".repeat(100_000);
    let body = Compression::Zstd.compress(log.as_bytes());
    let path = "log/1w1fff338fvdw53sqgamddn1b2xgds473-hello-2.12.drv";
    let answer = server.http().put_with(path, &body, &[("content-encoding", "zstd")]);
    assert!(answer.is_success(), "{}", answer.text());
    let answer = server.anonymous().get(path);
    assert_eq!(answer.header("content-encoding"), Some("zstd"));
    assert!(answer.body == body, "it is another body");
    server.stop();
}

#[test]
fn names_that_no_client_uses_are_not_kept() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let names = ["log/../x", "log/", "log/a/b", "other/x", "realisations/x", "debuginfo/.x", "x"];
    for path in names {
        assert_eq!(server.http().put(path, b"x").status, 404, "{path}");
        assert_eq!(server.http().get(path).status, 404, "{path}");
    }
    server.stop();
}

#[test]
fn a_client_that_writes_listings_and_compresses_narinfos_is_understood() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let closure = Closure::tiny();
    let options = "compression=zstd&write-nar-listing=true&narinfo-compression=zstd\
                   &ls-compression=zstd&index-debug-info=true";
    Nix::of(Version::V2_34, &server).copy_to(&format!("{}?{options}", server.url()), &closure);
    for path in &closure.paths {
        let listing = server.anonymous().get(&format!("{}.ls", path.hash_part()));
        assert_eq!(listing.status, 200, "{}", path.path);
        let listing: serde_json::Value =
            serde_json::from_slice(&listing.body).expect("a listing is JSON");
        assert_eq!(listing["version"], 1, "{}", path.path);
        assert_eq!(listing["root"]["type"], "directory", "{}", path.path);
    }
    for version in [Version::V2_8, Version::V2_34] {
        let puller = Nix::of(version, &server);
        puller.assert_same(&puller.substitute(&server.url(), &closure.top), &closure);
    }
    server.stop();
}

#[test]
fn a_listing_that_is_none_is_refused() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let path = "1w1fff338fvdw53sqgamddn1b2xgds47.ls";
    for body in [&b"no json"[..], b"{}", br#"{"version":7,"root":{"type":"symlink","target":"x"}}"#]
    {
        assert_eq!(server.http().put(path, body).status, 400);
    }
    assert_eq!(server.http().get(path).status, 404);
    server.stop();
}
