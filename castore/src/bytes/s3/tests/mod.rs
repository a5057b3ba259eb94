//! The backend against a real server, and against what lies between.

mod caching;
mod canned;
mod failures;
mod objects;

use std::time::{Duration, Instant};

use aws_sdk_s3::config::Credentials;
use granary_test_services::{FaultProxy, KEY, S3Server, SECRET};
use tempfile::TempDir;

use super::retry::Patience;
use super::{S3Packs, S3Statistics};
use crate::bytes::conformance::{bytes, read};
use crate::bytes::{PackBackend, ReadPack, Wait};
use crate::pack::PackId;

/// More than any test here reads.
const LARGE_CACHE: u64 = 1 << 30;
const MIB: usize = 1 << 20;

/// Tests do not wait as long as people do.
fn impatient() -> Patience {
    Patience {
        reads: Duration::from_secs(6),
        writes: Duration::from_secs(8),
        answer: Duration::from_secs(3),
        stall: Duration::from_millis(300),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(100),
    }
}

/// A server, a proxy before it, and a folder for the backends' folders.
struct Place {
    server: S3Server,
    proxy: FaultProxy,
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let server = S3Server::start();
        let proxy = FaultProxy::start(server.address());
        Self { server, proxy, dir: tempfile::tempdir().unwrap() }
    }

    /// A backend that reaches the server by the proxy. Those of the same name share a folder.
    fn open(&self, name: &str, cache: u64) -> S3Packs {
        let location = self.server.bucket_at("packs", &self.proxy.endpoint());
        self.open_at(name, &location, cache)
    }

    fn open_at(&self, name: &str, location: &str, cache: u64) -> S3Packs {
        let credentials = Credentials::new(KEY, SECRET, None, None, "test");
        let dir = self.dir.path().join(name);
        let location = location.parse().unwrap();
        S3Packs::open_as(location, &dir, cache, Some(credentials), impatient()).unwrap()
    }

    /// A sealed pack that no backend has in its cache.
    fn pack(&self, len: usize) -> (PackId, Vec<u8>) {
        let contents = bytes(len, len as u64);
        let id = PackId::random().unwrap();
        self.open("writer", 0).put(id, contents.clone()).unwrap();
        (id, contents)
    }

    /// The object's bytes as the server has them.
    fn object(&self, id: PackId) -> Vec<u8> {
        std::fs::read(self.server.dir().join(format!("packs/packs/{id}.pack"))).unwrap()
    }
}

/// Reads a pack from end to end, as a closure is read.
fn read_all(pack: &dyn ReadPack, contents: &[u8]) {
    const STEP: usize = 700_000;
    for (step, expected) in contents.chunks(STEP).enumerate() {
        let offset = (step * STEP) as u64;
        let got = read(pack, offset, &[56, expected.len() - 56], Wait::Yes).unwrap();
        assert!(got == expected, "at {offset}");
    }
}

/// What was asked of the server since.
fn since(backend: &S3Packs, before: &S3Statistics) -> u64 {
    backend.statistics().range_gets - before.range_gets
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
