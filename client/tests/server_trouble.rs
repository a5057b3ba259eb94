//! Pushing to a server that fails, as a made-up one does at will.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::fs;
use std::path::Path;

use castore::Digest;
use fixture::{LocalPaths, noise};
use granary_api::push::{Missing, MissingPaths, Outcome, PathOutcome, PublishPath};
use granary_api::{CacheInfo, ErrorBody};
use granary_client::http::{RemoteCache, Server};
use granary_client::push::{Here, PlanOptions, PushOptions, Summary, plan, push, push_into};
use nix_compat::store_path::StorePath;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server that has nothing does not like.
#[derive(Clone, Default)]
struct Dislikes {
    /// Fails on paths of this name.
    name: Option<&'static str>,
    /// Refuses bodies that hold this chunk.
    chunk: Option<Digest>,
    /// Takes no token for publications of paths of this name.
    publication: Option<&'static str>,
}

async fn start(dislikes: Dislikes) -> RemoteCache {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, dislikes.clone()));
        }
    });
    Server::new(base, None).unwrap().cache("main")
}

async fn serve(mut socket: TcpStream, dislikes: Dislikes) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        while bytes.len() < length {
            socket.read_buf(&mut bytes).await.unwrap();
        }
        let body: Vec<u8> = bytes.drain(..length).collect();
        let path = head.split(' ').nth(1).unwrap();
        let (status, answer) = answer(path, &body, &dislikes);
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", answer.len());
        socket.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
    }
}

fn answer(path: &str, body: &[u8], dislikes: &Dislikes) -> (u16, Vec<u8>) {
    if path.ends_with("/chunks/missing") {
        return (200, vec![0xff; (body.len() / Digest::LEN).div_ceil(8)]);
    }
    if path.ends_with("/chunks") {
        let refused = dislikes
            .chunk
            .is_some_and(|chunk| body.windows(Digest::LEN).any(|bytes| bytes == chunk.as_bytes()));
        if !refused {
            return (200, Vec::new());
        }
        let error = ErrorBody {
            code: 400,
            error: "BadRequest".to_owned(),
            message: "a record is not whole".to_owned(),
        };
        return (400, serde_json::to_vec(&error).unwrap());
    }
    if path.ends_with("/paths") {
        let plain = zstd::decode_all(body).unwrap();
        let named = |name: &str| plain.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        return match dislikes.publication.is_some_and(named) {
            true => (403, Vec::new()),
            false => (200, outcomes(body, dislikes)),
        };
    }
    let asked: MissingPaths = serde_json::from_slice(body).unwrap();
    (200, serde_json::to_vec(&Missing { hashes: asked.hashes, cache: cache() }).unwrap())
}

fn outcomes(body: &[u8], dislikes: &Dislikes) -> Vec<u8> {
    let (plain, mut answer) = (zstd::decode_all(body).unwrap(), Vec::new());
    let (mut rest, mut unpublished) = (&plain[..], Vec::new());
    while !rest.is_empty() {
        let path = PublishPath::decode_length_delimited(&mut rest).unwrap();
        let failed = dislikes.name.is_some_and(|name| path.store_path.ends_with(name));
        let outcome = match path.references.iter().any(|other| unpublished.contains(other)) {
            true => Outcome::Deferred,
            false if failed => Outcome::Failed,
            false => Outcome::Published,
        };
        if outcome != Outcome::Published {
            unpublished.push(path.store_path);
        }
        let outcome = PathOutcome { outcome: outcome.into(), ..PathOutcome::default() };
        answer.extend(outcome.encode_length_delimited_to_vec());
    }
    answer
}

fn cache() -> CacheInfo {
    CacheInfo {
        name: "main".to_owned(),
        public: true,
        store_dir: "/nix/store".to_owned(),
        priority: 40,
        upstream_keys: Vec::new(),
        retention: None,
        max_age: None,
        max_size: None,
        public_keys: Vec::new(),
        created: 0,
        destroyed: None,
        permissions: Vec::new(),
    }
}

async fn push_all(remote: &RemoteCache, local: &LocalPaths) -> Summary {
    let plan = plan(remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    let places = |path: &StorePath| local.place(path);
    push(remote, &plan, &places, PushOptions::default(), &|_, _| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_the_server_fails_on_keeps_back_only_those_that_refer_to_it() {
    let remote = start(Dislikes { name: Some("-bad"), ..Dislikes::default() }).await;
    let mut local = LocalPaths::new();
    let some = |seed| move |dir: &Path| fs::write(dir.join("f"), noise(seed, 10)).unwrap();
    let bad = local.add("bad", &[], some(1));
    let above = local.add("above", &[&bad], some(2));
    local.add("apart", &[], some(3));
    let pushed = push_all(&remote, &local).await;
    assert_eq!((pushed.published, pushed.failed.len()), (1, 2), "{:?}", pushed.failed);
    let why = |path| &pushed.failed.iter().find(|(failed, _)| failed == path).unwrap().1;
    assert!(why(&bad).contains("the server failed on it"), "{}", why(&bad));
    assert!(why(&above).contains(&bad.to_string()), "{}", why(&above));
    assert_eq!(remote.server().traffic().retries(), 0, "the network is not down");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_the_server_refuses_fail_their_path_and_no_other() {
    let contents = noise(1, 5000);
    let remote =
        start(Dislikes { chunk: Some(Digest::of(&contents)), ..Dislikes::default() }).await;
    let mut local = LocalPaths::new();
    local.add("first", &[], |dir| fs::write(dir.join("f"), noise(2, 5000)).unwrap());
    let bad = local.add("bad", &[], |dir| fs::write(dir.join("f"), &contents).unwrap());
    local.add("last", &[], |dir| fs::write(dir.join("f"), noise(3, 5000)).unwrap());
    let pushed = push_all(&remote, &local).await;
    assert_eq!((pushed.published, pushed.failed.len()), (2, 1), "{:?}", pushed.failed);
    let (path, why) = &pushed.failed[0];
    assert_eq!(*path, bad);
    assert!(why.contains("refuses its chunks: a record is not whole"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_ends_early_tells_what_it_has_published() {
    let remote = start(Dislikes { publication: Some("-last"), ..Dislikes::default() }).await;
    let mut local = LocalPaths::new();
    let first = local.add("first", &[], |dir| fs::write(dir.join("f"), noise(1, 10)).unwrap());
    local.add("last", &[&first], |dir| fs::write(dir.join("f"), noise(2, 10)).unwrap());
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    // The second is scanned once the first is through.
    let options = PushOptions { jobs: 1, memory: 1, ..PushOptions::default() };
    let (places, mut summary) = (|path: &StorePath| local.place(path), Summary::default());
    let here = Here(&places);
    let result = push_into(&remote, &plan, &here, options, &|_, _| (), &mut summary).await;
    assert!(result.unwrap_err().to_string().contains("does not permit it"));
    assert_eq!((summary.published, summary.failed.len()), (1, 0));
    assert!(summary.published_paths.contains(&first));
}
