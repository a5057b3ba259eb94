//! The sync protocol: what is sent, and which answers are believed.

use std::io::Write;

use granary_api::sync::{
    MAX_PATHS_AT_ONCE, MAX_PROFILE, MAX_PROFILES_BODY, PathProfile, SyncPaths, SyncedPath,
};
use prost::Message;

use super::*;

/// Bytes without a pattern, the same at every run.
fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

fn delimited(messages: &[SyncedPath]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn zstd(plain: &[u8]) -> Act {
    Act::Answer("200 OK", String::new(), zstd::stream::encode_all(plain, 1).unwrap())
}

#[tokio::test]
async fn paths_are_asked_for_again_and_an_answer_may_be_longer_than_any_other() {
    let long = SyncedPath {
        hash: vec![1; 20],
        narinfo: b"StorePath: x".to_vec(),
        tree: noise(MAX_BODY + 1),
        ..SyncedPath::default()
    };
    let paths = [SyncedPath { hash: vec![2; 20], ..SyncedPath::default() }, long];
    let there = Scripted::new(&[answer("503 x", ""), Act::Cut, zstd(&delimited(&paths))]).await;
    let question = SyncPaths { hashes: vec![1; 40], closure: true, trees: true, known: vec![] };
    let got = there.server(Some("t")).cache("c").sync(&question).await.unwrap();
    assert!(got == paths);
    for index in 0..3 {
        let (head, body) = there.request(index);
        assert!(head.starts_with("post /_granary/v1/caches/c/sync http/1.1"), "{head}");
        assert_eq!(SyncPaths::decode(&body[..]).unwrap(), question);
    }
    let there = Scripted::new(&[zstd(b"")]).await;
    assert_eq!(there.server(None).cache("c").sync(&question).await.unwrap(), []);
}

#[tokio::test]
async fn answers_of_sync_that_make_no_sense_are_refused() {
    let path = SyncedPath { hash: vec![2; 20], ..SyncedPath::default() };
    let whole = zstd::stream::encode_all(&delimited(&[path])[..], 1).unwrap();
    let cut = Act::Answer("200 OK", String::new(), whole[..whole.len() - 3].to_vec());
    let mut wide = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    wide.write_all(&noise(1 << 20)).unwrap();
    let wide = Act::Answer("200 OK", String::new(), wide.finish().unwrap());
    let lists = vec![Vec::new(); 100_000];
    let many_lists = delimited(&[SyncedPath { lists, ..SyncedPath::default() }]);
    for (what, act) in [
        ("not zstd", answer("200 OK", "<html>hello</html>")),
        ("cut", cut),
        ("a window too wide", wide),
        ("no length", zstd(&[0xff; 11])),
        ("half a length", zstd(&[0x80])),
        ("longer than said", zstd(&[5, 1])),
        ("longer than any", zstd(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("not a message", zstd(&[2, 0xff, 0xff])),
        ("too many lists", zstd(&many_lists)),
        ("too many paths", zstd(&vec![0; MAX_PATHS_AT_ONCE + 1])),
        ("too long by far", zstd(&vec![0x0a; 200 << 20])),
    ] {
        let there = Scripted::new(&[act]).await;
        let error = there.server(None).cache("c").sync(&SyncPaths::default()).await.unwrap_err();
        assert!(matches!(error, Error::NotGranary { .. }), "{what}: {error:?}");
        assert_eq!(there.count(), 1, "{what}");
    }
}

#[tokio::test]
async fn profiles_go_out_in_bodies_that_a_server_takes() {
    let there = Scripted::new(&[answer("503 x", ""), answer("204 x", "")]).await;
    let cache = there.server(None).cache("c");
    cache.send_profiles(&[]).await.unwrap();
    assert_eq!(there.count(), 0);
    let profile = |length| PathProfile { hash: vec![1; 20], chunks: vec![1; length] };
    let profiles = [vec![profile(MAX_PROFILE); 65], vec![profile(1); 5000]].concat();
    cache.send_profiles(&profiles).await.unwrap();
    let (mut sent, bodies) = (0, there.count());
    // The first was sent again.
    for index in 1..bodies {
        let (head, body) = there.request(index);
        assert!(head.starts_with("post /_granary/v1/caches/c/profiles "), "{head}");
        assert!(body.len() <= MAX_PROFILES_BODY);
        let (mut rest, mut count) = (&body[..], 0);
        while !rest.is_empty() {
            assert_eq!(PathProfile::decode_length_delimited(&mut rest).unwrap(), profiles[sent]);
            (sent, count) = (sent + 1, count + 1);
        }
        assert!(count <= MAX_PATHS_AT_ONCE);
    }
    assert_eq!((sent, bodies), (profiles.len(), 4));
}
