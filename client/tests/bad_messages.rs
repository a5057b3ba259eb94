//! Messages that no client of ours would send: each gets an answer that says what is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use castore::Digest;
use castore::tree::{Node, TreeBuilder};
use fixture::Fixture;
use granary_api::push::{Manifest, Outcome, PathOutcome, PublishPath};
use prost::Message;

const HASH: &str = "0000000000000000000000000000000c";

/// An empty file, which needs no chunk.
fn tree() -> Vec<u8> {
    let mut tree = TreeBuilder::default();
    let node = Node::File { digest: Digest::of(b""), size: 0, executable: false };
    tree.place(None, node).unwrap();
    tree.finish().unwrap().1
}

fn path(name: &str) -> PublishPath {
    let manifest = Manifest { tree: tree(), lists: Vec::new() };
    PublishPath {
        store_path: format!("{HASH}-{name}"),
        nar_hash: fixture::empty_file_nar_hash(),
        nar_size: 112,
        manifest: manifest.encode_to_vec(),
        ..PublishPath::default()
    }
}

async fn outcome(fixture: &Fixture, path: PublishPath) -> PathOutcome {
    let body = zstd::encode_all(&path.encode_length_delimited_to_vec()[..], 1).unwrap();
    let answer = fixture.remote("main").publish(body.into()).await.unwrap();
    PathOutcome::decode_length_delimited(answer).unwrap()
}

type Change = Box<dyn Fn(&mut PublishPath)>;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_path_is_named_and_the_path_is_not_there() {
    let fixture = Fixture::start().await;
    let wrong: Vec<(&str, Change)> = vec![
        ("StorePath", Box::new(|p| p.store_path = "no-path".to_owned())),
        ("NarHash", Box::new(|p| p.nar_hash = vec![0; 31])),
        ("NarHash", Box::new(|p| p.nar_hash = vec![0; 32])),
        ("NarSize", Box::new(|p| p.nar_size = 120)),
        ("NarSize", Box::new(|p| p.nar_size = u64::MAX)),
        ("References", Box::new(|p| p.references = vec!["../x".to_owned()])),
        ("Deriver", Box::new(|p| p.deriver = "x".to_owned())),
        ("Sig", Box::new(|p| p.signatures = vec!["x".to_owned()])),
        ("CA", Box::new(|p| p.ca = "x".to_owned())),
        ("CA", Box::new(|p| p.ca = format!("fixed:r:sha256:{}", "0".repeat(52)))),
        ("manifest", Box::new(|p| p.manifest = vec![0xff; 9])),
        ("manifest", Box::new(|p| p.manifest_chunks = vec![vec![1; 5]])),
        ("tree", Box::new(|p| p.manifest = Vec::new())),
        (
            "chunk list",
            Box::new(|p| {
                let manifest = Manifest { tree: tree(), lists: vec![vec![b's'; 100]] };
                p.manifest = manifest.encode_to_vec();
            }),
        ),
    ];
    for (field, change) in wrong {
        let mut path = path("bad");
        change(&mut path);
        let outcome = outcome(&fixture, path).await;
        assert_eq!(outcome.outcome(), Outcome::Refused, "{field}: {}", outcome.message);
        assert!(outcome.message.contains(field), "{field}: {}", outcome.message);
        let narinfo = fixture.remote("main").file(&format!("{HASH}.narinfo")).await;
        assert!(narinfo.is_err(), "{field}: the path is there");
    }
    let good = outcome(&fixture, path("good")).await;
    assert_eq!(good.outcome(), Outcome::Published, "{}", good.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_are_refused_at_once() {
    let fixture = Fixture::start().await;
    let remote = fixture.remote("main");
    let long = [&b"\xff\xff\xff\xff\x07"[..], &[0; 100]].concat();
    let cut = &path("cut").encode_length_delimited_to_vec()[..50];
    for (what, body) in [
        ("not zstd", b"plain".to_vec()),
        ("too long a message", zstd::encode_all(&long[..], 1).unwrap()),
        ("a cut message", zstd::encode_all(cut, 1).unwrap()),
        ("no length", zstd::encode_all(&[0xff; 20][..], 1).unwrap()),
        ("a bomb", zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap()),
    ] {
        let error = remote.publish(body.into()).await.unwrap_err().to_string();
        assert!(!error.contains("fails ("), "{what}: {error}");
    }
    let odd = remote.missing_chunks(vec![0; 33].into()).await.unwrap_err().to_string();
    assert!(odd.contains("32 bytes"), "{odd}");
    let no_record = remote.send_chunks(vec![7; 200].into()).await.unwrap_err().to_string();
    assert!(no_record.contains("records"), "{no_record}");
}
