//! A tenant who knows every digest of another's private path, and learns nothing by it: the bytes
//! are shared on disk, but to read, link, or see them one must have sent them, or be allowed to read
//! them. Whatever is asked, what is there and what never was get the same answer to the byte.
#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::path::Path;

use granary_e2e::codec::{Compression, nix32, nix32_to_hex};
use granary_e2e::packs::{self, CHUNK, Record};
use granary_e2e::protocol::{self, Digest, Publish};
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::mint;
use granary_e2e::upload::Upload;
use granary_e2e::{Closure, Home, Http, Nix, Server, Version, Wire, nar, narinfo, places};
use serde_json::json;

const API: &str = "/_granary/v1/caches";

/// All there is to know of a store path that is one file.
#[derive(Debug, Clone)]
struct Knowledge {
    base_name: String,
    chunks: Vec<(Digest, u64)>,
    blob: Digest,
    nar_hash: [u8; 32],
    nar_size: u64,
    file_hash: [u8; 32],
    /// What the narinfo says, relative to the cache.
    url: String,
    /// The first chunk's bytes are another file's.
    wrong_bytes: Vec<u8>,
}

impl Knowledge {
    fn hash_part(&self) -> &str {
        &self.base_name[..32]
    }

    /// The same as bytes.
    fn hash(&self) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(nix32_to_hex(self.hash_part()).as_bytes()).expect("hex")
    }

    fn manifest(&self) -> Vec<u8> {
        protocol::file_manifest(&self.blob, &self.chunks)
    }

    fn publish(&self) -> Publish {
        Publish {
            store_path: self.base_name.clone(),
            nar_hash: self.nar_hash,
            nar_size: self.nar_size,
            manifest: self.manifest(),
            manifest_chunks: Vec::new(),
        }
    }

    /// Digests of everything, chunks first.
    fn digests(&self) -> Vec<Digest> {
        let manifest = self.manifest();
        let mut all: Vec<Digest> = self.chunks.iter().map(|(digest, _)| *digest).collect();
        let parts = [protocol::all_bytes(&manifest, 1), protocol::all_bytes(&manifest, 2)].concat();
        all.extend(parts.into_iter().map(|part| *blake3::hash(part).as_bytes()));
        all.extend([*blake3::hash(&manifest).as_bytes(), self.blob, self.nar_hash, self.file_hash]);
        all
    }

    /// The like of it, which exists nowhere.
    fn decoy(&self, random: &mut Random) -> Self {
        let mut digest = || -> Digest { random.bytes(32).try_into().expect("32 bytes") };
        let chunks = self.chunks.iter().map(|(_, size)| (digest(), *size)).collect();
        let (blob, nar_hash, file_hash) = (digest(), digest(), digest());
        let mut url = self.url.clone();
        for (mine, other) in [(self.nar_hash, nar_hash), (self.file_hash, file_hash)] {
            url = url.replace(&nix32(&mine), &nix32(&other)).replace(&hex(&mine), &hex(&other));
        }
        assert_ne!(url, self.url, "the URL is made of something else");
        let base_name = format!("{}{}", random.hash_part(), &self.base_name[32..]);
        Self { base_name, chunks, blob, nar_hash, file_hash, url, ..self.clone() }
    }

    /// The answer, with everything that only repeats the question covered.
    fn cover(&self, answer: &RawAnswer) -> (u16, Vec<u8>, Vec<u8>) {
        let cover = |bytes: &[u8]| {
            let mut out = bytes.to_vec();
            let texts = [self.url.clone(), self.base_name.clone(), self.hash_part().to_owned()];
            replace_all(&mut out, texts.iter().map(String::as_bytes));
            for digest in self.digests() {
                let [hex, nix32] = [hex(&digest), nix32(&digest)];
                replace_all(&mut out, [&digest[..], hex.as_bytes(), nix32.as_bytes()].into_iter());
            }
            out
        };
        (answer.status, cover(answer.head.as_bytes()), cover(&answer.bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn replace_all<'a>(bytes: &mut [u8], found: impl Iterator<Item = &'a [u8]>) {
    for what in found {
        while let Some(at) = bytes.windows(what.len()).position(|window| window == what) {
            bytes[at..at + what.len()].fill(b'*');
        }
    }
}

/// Everything that can be asked of `cache` about what is known.
fn questions(cache: &str, known: &Knowledge) -> Vec<(&'static str, String, Vec<u8>)> {
    let (hash, nar_hash, file_hash) =
        (known.hash_part(), nix32(&known.nar_hash), nix32(&known.file_hash));
    let mut all = Vec::new();
    let files = [
        format!("{hash}.narinfo"),
        format!("{hash}.ls"),
        known.url.clone(),
        format!("nar/{nar_hash}.nar"),
        format!("nar/{nar_hash}.nar.zst"),
        format!("nar/{file_hash}.nar"),
        format!("nar/{file_hash}.nar.zst"),
        format!("nar/{file_hash}.nar.xz"),
        format!("nar/{}.nar.zst", hex(&known.blob)),
        format!("log/{}.drv", known.base_name),
        format!("debuginfo/{}", hex(&known.blob)),
        format!("realisations/sha256:{}!out.doi", hex(&known.nar_hash)),
    ];
    for file in files {
        for method in ["GET", "HEAD"] {
            all.push((method, format!("/{cache}/{file}"), Vec::new()));
        }
    }
    for url in [&known.url, &format!("nar/{file_hash}.nar.zst"), &format!("nar/{nar_hash}.nar")] {
        let narinfo = format!(
            "StorePath: /nix/store/{}\nURL: {url}\nCompression: {}\nNarHash: sha256:{nar_hash}\n\
             NarSize: {}\nReferences: \n",
            known.base_name,
            if url.ends_with(".zst") { "zstd" } else { "none" },
            known.nar_size,
        );
        all.push(("PUT", format!("/{cache}/{hash}.narinfo"), narinfo.into_bytes()));
    }

    let mut post = |what: &str, body: Vec<u8>| {
        all.push(("POST", format!("{API}/{cache}/{what}"), body));
    };
    post("missing", json!({ "hashes": [hash] }).to_string().into_bytes());
    post("chunks/missing", known.digests().concat());
    post("chunks", protocol::record(&known.chunks[0].0, &known.wrong_bytes));
    let asked = json!({ "cache": cache, "store_path_hashes": [hash] }).to_string().into_bytes();
    all.push(("POST", "/_api/v1/get-missing-paths".to_owned(), asked));
    let mut post = |what: &str, body: Vec<u8>| {
        all.push(("POST", format!("{API}/{cache}/{what}"), body));
    };
    for (closure, trees) in [(0, 0), (1, 1)] {
        post("sync", protocol::sync_question(&[known.hash()], closure, trees));
    }
    post("chunks/read", known.digests().concat());
    let profile = [protocol::bytes(1, &known.hash()), protocol::bytes(2, &[1, 0])].concat();
    post("profiles", protocol::delimit(&[profile]));
    let published = known.publish();
    let by_chunks = |digests: Vec<Digest>| Publish {
        manifest: Vec::new(),
        manifest_chunks: digests,
        ..published.clone()
    };
    let all_digests = known.digests();
    let messages = [
        published.clone(),
        Publish { nar_hash: [7; 32], ..published.clone() },
        by_chunks(all_digests[..known.chunks.len()].to_vec()),
        by_chunks(all_digests[known.chunks.len()..].to_vec()),
        by_chunks(vec![all_digests[0]]),
    ];
    for message in messages {
        post("paths", protocol::paths_body(&[message.encode()]));
    }
    all
}

/// Whoever asks: a name, and a token.
type Asker = (&'static str, Option<String>);

/// Asks everything about what is there and what is not, and fails where the answers differ.
fn learns_nothing(server: &Server, (name, token): &Asker, caches: &[&str], known: &Knowledge) {
    let decoy = known.decoy(&mut Random::new(known.nar_size));
    for cache in caches {
        for (real, fake) in questions(cache, known).into_iter().zip(questions(cache, &decoy)) {
            let ask = |(method, path, body): &(&str, String, Vec<u8>)| {
                raw::request(&server.origin(), method, path, token.as_deref(), body)
            };
            if real.1.ends_with("/sync") {
                // It repeats the question, compressed: that, and nothing else.
                for (question, knowledge) in [(&real, known), (&fake, &decoy)] {
                    let answer = ask(question);
                    if answer.status == 200 {
                        let found = protocol::synced(&answer.content());
                        let absent = (knowledge.hash(), vec![]);
                        assert_eq!(found, [absent], "{name}: {}", question.1);
                    }
                }
                let (about_real, about_fake) = (ask(&real), ask(&fake));
                assert_eq!(about_real.status, about_fake.status, "{name}: {}", real.1);
                assert_eq!(about_real.head, about_fake.head, "{name}: {}", real.1);
                continue;
            }
            let (about_real, about_fake) = (ask(&real), ask(&fake));
            let what = format!("{name}: {} {}", real.0, real.1);
            assert!(
                known.cover(&about_real) == decoy.cover(&about_fake),
                "{what} tells them apart:\n{about_real:?}\n{about_fake:?}"
            );
            if !about_real.status.to_string().starts_with('2') {
                continue;
            }
            // Only those who may push get an answer at all, and it is that all is missing.
            let content = about_real.content();
            match real.1.rsplit('/').next().expect("a last part") {
                "missing" if real.1.ends_with("/chunks/missing") => {
                    let ones: u32 = content.iter().map(|byte| byte.count_ones()).sum();
                    assert_eq!(ones as usize, known.digests().len(), "{what}");
                }
                "missing" => {
                    assert_eq!(about_real.json()["hashes"], json!([known.hash_part()]), "{what}");
                }
                "get-missing-paths" => {
                    let missing = &about_real.json()["missing_paths"];
                    assert_eq!(missing, &json!([known.hash_part()]), "{what}");
                }
                "paths" => {
                    for outcome in protocol::outcomes(&content) {
                        assert_ne!(outcome.outcome, protocol::PUBLISHED, "{what}");
                    }
                }
                "read" | "profiles" => assert!(content.is_empty(), "{what}: {about_real:?}"),
                _ => panic!("{what}: {about_real:?}"),
            }
        }
    }
}

/// The missing ones among the known chunks, as the server says.
fn missing(server: &Server, token: &str, cache: &str, known: &Knowledge) -> Vec<bool> {
    let digests = known.digests()[..known.chunks.len()].concat();
    let path = format!("{API}/{cache}/chunks/missing");
    let answer = raw::request(&server.origin(), "POST", &path, Some(token), &digests);
    assert_eq!(answer.status, 200, "{answer:?}");
    let bit = |at: usize| answer.bytes[at / 8] >> (at % 8) & 1 == 1;
    (0..known.chunks.len()).map(bit).collect()
}

fn sync(server: &Server, token: &str, cache: &str, known: &Knowledge) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (path, body) =
        (format!("{API}/{cache}/sync"), protocol::sync_question(&[known.hash()], 1, 1));
    let answer = raw::request(&server.origin(), "POST", &path, Some(token), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    protocol::synced(&answer.content())
}

/// Those of the known digests under which the server gives out chunks, with their lengths.
fn read_chunks(server: &Server, token: &str, cache: &str, known: &Knowledge) -> Vec<(Digest, u64)> {
    let (path, body) = (format!("{API}/{cache}/chunks/read"), known.digests().concat());
    let answer = raw::request(&server.origin(), "POST", &path, Some(token), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    packs::records(&answer.content()).iter().map(|record| (record.digest, record.plain)).collect()
}

fn publish(server: &Server, token: &str, cache: &str, path: &Publish) -> protocol::Outcome {
    let (target, body) = (format!("{API}/{cache}/paths"), protocol::paths_body(&[path.encode()]));
    let answer = raw::request(&server.origin(), "POST", &target, Some(token), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    protocol::outcomes(&answer.content()).pop().expect("an outcome")
}

fn send_chunk(server: &Server, token: &str, cache: &str, plain: &[u8]) -> RawAnswer {
    let body = protocol::record(blake3::hash(plain).as_bytes(), plain);
    let path = format!("{API}/{cache}/chunks");
    raw::request(&server.origin(), "POST", &path, Some(token), &body)
}

/// A store with one path that refers to none, a file named `secret`.
fn store_with(home: &Home, root: &Path, contents: &[u8]) -> Closure {
    let file = home.path("secret");
    fs::write(&file, contents).expect("written");
    let top = home.add_to_store(root, &file);
    Closure { root: root.to_owned(), top, paths: Vec::new() }
}

/// What is to be known of a file in a cache, its chunks being these.
fn learn(server: &Server, closure: &Closure, contents: &[u8], chunks: &[Record]) -> Knowledge {
    let url = format!("{}/a-private", server.origin());
    let base_name = closure.top.rsplit('/').next().expect("a name").to_owned();
    let narinfo =
        Http::with_token(&url, server.token()).get(&format!("{}.narinfo", &base_name[..32]));
    let (text, nar) = (narinfo.text(), nar::nar(&nar::file(contents, false)));
    let fields = narinfo::parse(&text);
    let from_nix32 = |text: &str| -> [u8; 32] {
        let hex = nix32_to_hex(text.trim_start_matches("sha256:"));
        data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex").try_into().expect("32 bytes")
    };
    let nar_hash = from_nix32(fields["NarHash"]);
    assert_eq!(nar_hash, granary_e2e::codec::sha256(&nar));
    let chunks: Vec<_> = chunks.iter().map(|chunk| (chunk.digest, chunk.plain)).collect();
    let (mut at, mut wrong_bytes) = (0, contents[..chunks[0].1 as usize].to_vec());
    for (digest, size) in &chunks {
        let end = at + *size as usize;
        assert_eq!(blake3::hash(&contents[at..end]).as_bytes(), digest, "not the file's chunk");
        at = end;
    }
    assert_eq!(at, contents.len(), "chunks are missing");
    wrong_bytes[0] ^= 1;
    Knowledge {
        base_name,
        chunks,
        blob: *blake3::hash(contents).as_bytes(),
        nar_hash,
        nar_size: nar.len() as u64,
        // Granary's own narinfos may have none.
        file_hash: fields.get("FileHash").map_or([9; 32], |hash| from_nix32(hash)),
        url: fields["URL"].to_owned(),
        wrong_bytes,
    }
}

fn chunk_records(data: &Path) -> Vec<Record> {
    packs::all_records(data).into_iter().filter(|record| record.kind == CHUNK).collect()
}

fn stored(data: &Path) -> u64 {
    chunk_records(data).iter().map(|record| record.size).sum()
}

#[test]
fn who_knows_every_digest_of_a_private_path_gets_nothing_for_it_and_one_copy_is_stored() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let (mut random, tap) = (Random::from_environment(), Wire::tapped(&server.origin()));
    let alice_token = mint(data.path(), "alice", &[("a-*", &["pull", "push", "create"])]);
    let alice = Home::with_token(Version::V2_34, &tap.origin(), &alice_token);
    alice.granary_ok(&["cache", "create", "a-private"]);

    // One path comes by granary's own protocol, and what travelled is known in full.
    let (root, contents) = (places::scratch(), random.bytes(1_500_000));
    let closure = store_with(&alice, root.path(), &contents);
    tap.take_seen();
    alice.push("a-private", &closure);
    let seen = tap.take_seen();
    let body = |what: &str| {
        let request = seen.iter().find(|seen| seen.line.ends_with(&format!("a-private/{what}")));
        &request.unwrap_or_else(|| panic!("no request for {what}: {seen:?}")).body
    };
    let by_push = learn(&server, &closure, &contents, &packs::records(body("chunks")));
    assert!(by_push.chunks.len() > 3, "too few chunks to tell anything");
    let message = protocol::paths_messages(body("paths")).pop().expect("a message");
    assert!(protocol::all_bytes(&message, 8) == [&by_push.manifest()[..]], "another manifest");

    // Another comes by Nix; its chunks are read from the server's disk.
    let (before, root) = (chunk_records(data.path()), places::scratch());
    let other_contents = random.bytes(1_200_000);
    let other = store_with(&alice, root.path(), &other_contents);
    let url = format!("{}/a-private", server.origin());
    let nix = Nix::with(Version::V2_26, &alice_token, server.public_key());
    nix.copy_to(&format!("{url}?compression=zstd"), &other);
    let chunks: Vec<_> =
        chunk_records(data.path()).into_iter().filter(|chunk| !before.contains(chunk)).collect();
    let by_nix = learn(&server, &other, &other_contents, &chunks);

    // The questions are good ones: to those who may read, they say what is there.
    for known in [&by_push, &by_nix] {
        assert!(!missing(&server, &alice_token, "a-private", known).contains(&true));
        let linked = publish(&server, &alice_token, "a-private", &known.publish());
        assert_eq!(linked.outcome, protocol::PUBLISHED, "{linked:?}");
        let synced = sync(&server, &alice_token, "a-private", known);
        assert!(
            matches!(&synced[..], [(hash, narinfo)] if *hash == known.hash() && !narinfo.is_empty())
        );
        assert_eq!(read_chunks(&server, &alice_token, "a-private", known), known.chunks);
        let read = questions("a-private", known).into_iter().filter(|(_, path, _)| {
            let hash = known.hash_part();
            path.ends_with(&format!("{hash}.narinfo")) || path.ends_with(&known.url)
        });
        for (method, path, _) in read.filter(|(method, ..)| *method != "PUT") {
            let answer = raw::request(&server.origin(), method, &path, Some(&alice_token), b"");
            assert_eq!(answer.status, 200, "{method} {path}");
        }
    }

    let all: &[&str] =
        &["pull", "push", "create", "configure", "configure-retention", "destroy", "delete", "pin"];
    let bob_token = mint(data.path(), "bob", &[("b-*", all)]);
    let bob = Home::with_token(Version::V2_34, &server.origin(), &bob_token);
    bob.granary_ok(&["cache", "create", "b-own"]);
    let pusher = mint(data.path(), "mallory", &[("a-private", &["push"])]);
    let askers =
        [("nobody", None), ("bob", Some(bob_token.clone())), ("mallory", Some(pusher.clone()))];
    let caches = ["a-private", "b-own", "default", "b-none"];
    let size = stored(data.path());
    for asker in &askers {
        for known in [&by_push, &by_nix] {
            learns_nothing(&server, asker, &caches, known);
        }
    }
    // What alice sent, to the byte.
    for cache in ["a-private", "b-own"] {
        let path = format!("{API}/{cache}/paths");
        for (name, token) in &askers {
            let answer =
                raw::request(&server.origin(), "POST", &path, token.as_deref(), body("paths"));
            // Otherwise they were not let in.
            if answer.status == 200 {
                let outcome = protocol::outcomes(&answer.content()).pop().expect("an outcome");
                let all = &by_push.digests()[..by_push.chunks.len()];
                assert_eq!(
                    (outcome.outcome, &outcome.missing[..]),
                    (protocol::MISSING, all),
                    "{name}"
                );
            } else {
                assert!(matches!(answer.status, 401 | 403), "{name}: {answer:?}");
            }
        }
    }
    assert_eq!(stored(data.path()), size, "something was stored");

    // Who may only push publishes by narinfo what was sent with the same token, and only that.
    let mallory = Http::with_token(&format!("{}/a-private", server.origin()), &pusher);
    let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);
    assert_eq!(upload.put_narinfo(&mallory).status, 400);
    assert_eq!((upload.put_nar(&mallory).status, upload.put_narinfo(&mallory).status), (201, 201));

    // One chunk of it is one chunk. To send what is there looks as if it were not.
    let first = &contents[..by_push.chunks[0].1 as usize];
    let fresh = random.bytes(first.len());
    let [of_alice, of_nobody] =
        [first, &fresh].map(|plain| send_chunk(&server, &bob_token, "b-own", plain));
    assert_eq!((of_alice.status, &of_alice), (200, &of_nobody));
    let is_missing = missing(&server, &bob_token, "b-own", &by_push);
    assert!(!is_missing[0] && !is_missing[1..].contains(&false), "{is_missing:?}");
    assert_eq!(read_chunks(&server, &bob_token, "b-own", &by_push), by_push.chunks[..1]);
    let outcome = publish(&server, &bob_token, "b-own", &by_push.publish());
    assert_eq!(outcome.outcome, protocol::MISSING);
    assert_eq!(outcome.missing, by_push.digests()[1..by_push.chunks.len()]);

    // Once bob has the bytes and sends them all, they are his as well, and there once.
    let size = stored(data.path());
    bob.push("b-own", &closure);
    let linked =
        Publish { store_path: format!("{}-linked", random.hash_part()), ..by_push.publish() };
    assert_eq!(publish(&server, &bob_token, "b-own", &linked).outcome, protocol::PUBLISHED);
    let url = format!("{}/b-own", server.origin());
    let narinfo = format!("{}.narinfo", &linked.store_path[..32]);
    assert_eq!(Http::with_token(&url, &bob_token).get(&narinfo).status, 200);
    let grown = stored(data.path()) - size;
    assert!(grown * 100 < contents.len() as u64, "{grown} bytes of chunks were stored again");
    // And alice's other path is hers alone.
    learns_nothing(&server, &askers[1], &caches, &by_nix);
}
