//! What is stored and served, looked at with tools that know nothing of Granary.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::codec::{self, Compression};
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Closure, Combination, Nix, Server, Store, Version, narinfo, packs, places};
use std::path::Path;

/// A server that holds the small closure.
fn stocked(data: &Path) -> (Server, Closure) {
    let closure = Closure::tiny();
    let server = Server::start(data);
    Nix::of(Version::V2_34, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    (server, closure)
}

#[test]
fn every_pack_is_a_zstd_stream_also_while_it_is_open() {
    let data = places::scratch();
    let (server, closure) = stocked(data.path());
    let check = |when: &str| {
        let found = packs::decode_all(data.path());
        let plain = found.plain;
        // The closure has little in common with itself: most of its bytes must be there.
        let nars: u64 = closure.paths.iter().map(|path| path.nar_size).sum();
        assert!(plain > nars / 2, "{when}: {plain} bytes in packs for {nars} of NARs");
        found
    };
    let found = check("while the server runs");
    match Combination::chosen().store {
        Store::Disk => assert!(found.open > 0, "none is open: {found:?}"),
        // What is acknowledged is in objects, and these are sealed.
        Store::S3 => assert!(found.sealed > 0 && found.open == 0, "{found:?}"),
    }
    server.stop();
    check("after it has stopped");
}

#[test]
fn every_served_nar_has_its_length_and_decodes_with_the_tool_of_its_compression() {
    let data = places::scratch();
    let (server, closure) = stocked(data.path());
    let http = server.http();
    let mut zstd = 0;
    for path in &closure.paths {
        let narinfo = http.get(&format!("{}.narinfo", path.hash_part()));
        assert_eq!(narinfo.status, 200, "the narinfo of {}", path.path);
        let text = narinfo.text();
        let fields = narinfo::parse(&text);
        assert_eq!(fields["StorePath"], path.path);
        assert_eq!(fields["NarSize"], path.nar_size.to_string());
        let nar_hash = fields["NarHash"].strip_prefix("sha256:").expect("sha256:");
        assert_eq!(codec::nix32_to_hex(nar_hash), path.nar_hash);
        let mut references: Vec<_> =
            path.references.iter().map(|r| &r["/nix/store/".len()..]).collect();
        references.sort_unstable();
        assert_eq!(fields["References"], references.join(" "));
        assert!(fields["URL"].starts_with("nar/"), "{}", fields["URL"]);

        let answer = http.get(fields["URL"]);
        assert_eq!(answer.status, 200, "{}", fields["URL"]);
        assert_eq!(answer.header("content-encoding"), None, "{}", fields["URL"]);
        assert_eq!(answer.content_length(), Some(answer.body.len() as u64), "{}", fields["URL"]);
        if let Some(size) = fields.get("FileSize") {
            assert_eq!(*size, answer.body.len().to_string(), "FileSize of {}", path.path);
        }
        if let Some(hash) = fields.get("FileHash") {
            assert_eq!(*hash, format!("sha256:{}", codec::sha256_nix32(&answer.body)));
        }
        let head = http.head(fields["URL"]);
        assert_eq!((head.status, head.content_length()), (200, answer.content_length()));

        let compression = Compression::named(fields["Compression"]);
        zstd += usize::from(compression == Compression::Zstd);
        let nar = compression.decompress(&answer.body).expect(fields["URL"]);
        assert_eq!(codec::sha256_hex(&nar), path.nar_hash, "the NAR of {}", path.path);
    }
    assert!(zstd > 0, "nothing is served as zstd");
    server.stop();
}

#[test]
fn an_uploaded_url_goes_on_answering_in_its_compression_after_a_restart() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let uploads: Vec<_> = Compression::ALL
        .into_iter()
        .map(|compression| {
            let nar = random.nar();
            (compression, Upload::new(&random.hash_part(), &nar, compression), nar)
        })
        .collect();
    for (compression, upload, _) in &uploads {
        let http = server.http();
        let answer = upload.put_nar(&http);
        assert!(answer.is_success(), "{compression:?}: {} {}", answer.status, answer.text());
        let answer = upload.put_narinfo(&http);
        assert!(answer.is_success(), "{compression:?}: {} {}", answer.status, answer.text());
    }
    let server = server.restart();
    for (compression, upload, nar) in &uploads {
        let answer = server.http().get(&upload.info.url);
        assert_eq!(answer.status, 200, "{}", upload.info.url);
        assert_eq!(answer.content_length(), compression.expected_length(&answer.body));
        let decoded = compression.decompress(&answer.body).expect("it decodes");
        assert!(decoded == *nar, "{} is another NAR", upload.info.url);
    }
    server.stop();
}

#[test]
fn a_plain_nar_can_be_had_in_ranges() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let http = server.http();
    let mut random = Random::from_environment();
    let nar = granary_e2e::nar::nar(&granary_e2e::nar::directory(&[
        ("incompressible", granary_e2e::nar::file(&random.bytes(3_000_000), false)),
        ("text", granary_e2e::nar::file(&random.text(2_000_000), true)),
    ]));
    let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
    assert!(upload.put_nar(&http).is_success());
    assert!(upload.put_narinfo(&http).is_success());

    let url = format!("nar/{}.nar", codec::sha256_nix32(&nar));
    let whole = http.get(&url);
    assert_eq!((whole.status, whole.content_length()), (200, Some(nar.len() as u64)));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert!(whole.body == nar, "the whole NAR");

    let end = nar.len();
    let part = |range: String, start: usize, stop: usize| {
        let answer = http.get_range(&url, &range);
        assert_eq!(answer.status, 206, "{range}");
        let content_range = format!("bytes {start}-{}/{end}", stop - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()), "{range}");
        assert_eq!(answer.content_length(), Some((stop - start) as u64), "{range}");
        assert!(answer.body == nar[start..stop], "{range}: other bytes");
    };
    part("bytes=0-0".into(), 0, 1);
    part("bytes=0-99".into(), 0, 100);
    part(format!("bytes={}-", end - 1), end - 1, end);
    part("bytes=-16".into(), end - 16, end);
    part(format!("bytes=100-{}", end * 2), 100, end);
    for _ in 0..20 {
        let start = random.below(end as u64) as usize;
        let stop = start + 1 + random.below((end - start) as u64) as usize;
        part(format!("bytes={start}-{}", stop - 1), start, stop);
        part(format!("bytes={start}-"), start, end);
    }
    let beyond = http.get_range(&url, &format!("bytes={end}-"));
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), Some(format!("bytes */{end}").as_str()));
    server.stop();
}

#[test]
fn nix_cache_info_says_where_the_store_is() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let answer = server.http().get("nix-cache-info");
    assert_eq!(answer.status, 200);
    assert!(answer.text().lines().any(|line| line == "StoreDir: /nix/store"), "{}", answer.text());
    server.stop();
}

#[test]
fn what_is_not_there_is_404_and_nothing_worse() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let http = server.http();
    let hash = "0".repeat(32);
    let file = "0".repeat(52);
    for path in [
        format!("{hash}.narinfo"),
        format!("{hash}.ls"),
        format!("nar/{file}.nar"),
        format!("nar/{file}.nar.xz"),
        format!("nar/{file}.nar.zst"),
        format!("log/{hash}-e2e.drv"),
    ] {
        assert_eq!(http.get(&path).status, 404, "GET {path}");
        assert_eq!(http.head(&path).status, 404, "HEAD {path}");
    }
    server.stop();
}
