//! The push protocol, written once more by hand: records of chunks as docs/pack-format.md has them,
//! and messages in protobuf's encoding.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::packs;

/// BLAKE3.
pub type Digest = [u8; 32];

/// Of an outcome: it is in the cache.
pub const PUBLISHED: u64 = 1;
/// Of an outcome: chunks have to be sent first.
pub const MISSING: u64 = 2;
/// Of an outcome: not as it is.
pub const REFUSED: u64 = 3;

/// A number, seven bits a byte.
pub fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// A field that is a number; 0 is left out.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    if value == 0 { Vec::new() } else { [varint(field << 3), varint(value)].concat() }
}

/// A field of bytes, a text, or a message.
pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a number's end") + 1;
    let (number, rest) = bytes.split_at(length);
    *bytes = rest;
    number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn read_delimited<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = read_varint(bytes) as usize;
    let (found, rest) = bytes.split_at(length);
    *bytes = rest;
    found
}

/// The values of a message's field of bytes.
pub fn all_bytes(mut message: &[u8], field: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = read_varint(&mut message);
        match tag & 7 {
            0 => drop(read_varint(&mut message)),
            2 => {
                let value = read_delimited(&mut message);
                if tag >> 3 == field {
                    found.push(value);
                }
            }
            kind => panic!("no message of this protocol has a field of kind {kind}"),
        }
    }
    found
}

fn number_in(mut message: &[u8], field: u64) -> u64 {
    let mut found = 0;
    while !message.is_empty() {
        let tag = read_varint(&mut message);
        match tag & 7 {
            0 if tag >> 3 == field => found = read_varint(&mut message),
            0 => drop(read_varint(&mut message)),
            _ => drop(read_delimited(&mut message)),
        }
    }
    found
}

/// A record of kind chunk: these bytes under that digest, be it theirs or not.
pub fn record(digest: &Digest, plain: &[u8]) -> Vec<u8> {
    let frames = zstd::bulk::compress(plain, 1).expect("zstd compresses");
    let mut header = 0x184D_2A5C_u32.to_le_bytes().to_vec();
    header.extend(56u32.to_le_bytes());
    header.extend([1, packs::CHUNK, 0, 0]);
    header.extend((frames.len() as u32).to_le_bytes());
    header.extend((plain.len() as u64).to_le_bytes());
    header.extend(digest);
    let checksum = xxh3_64_with_seed(&frames, xxh3_64(&header));
    [header, checksum.to_le_bytes().to_vec(), frames].concat()
}

/// The manifest of a store path that is one file of several chunks, not executable.
pub fn file_manifest(blob: &Digest, chunks: &[(Digest, u64)]) -> Vec<u8> {
    let refs = chunks.iter().map(|(digest, size)| {
        let chunk = [bytes(1, digest), number(2, *size)].concat();
        bytes(1, &chunk)
    });
    let list = refs.collect::<Vec<_>>().concat();
    let size = chunks.iter().map(|(_, size)| size).sum();
    // The root has no name, and what is empty is left out.
    let file = [bytes(2, blob), number(3, size)].concat();
    let list_ref = [bytes(1, blob), bytes(2, blake3::hash(&list).as_bytes())].concat();
    let tree = [bytes(1, &bytes(2, &file)), bytes(3, &list_ref)].concat();
    [bytes(1, &tree), bytes(2, &list)].concat()
}

/// A path to publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Base name.
    pub store_path: String,
    /// SHA-256.
    pub nar_hash: [u8; 32],
    /// In bytes.
    pub nar_size: u64,
    /// The manifest; empty if it is sent as chunks.
    pub manifest: Vec<u8>,
    /// The chunks that it is sent as.
    pub manifest_chunks: Vec<Digest>,
}

impl Publish {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = bytes(1, self.store_path.as_bytes());
        out.extend(bytes(2, &self.nar_hash));
        out.extend(number(3, self.nar_size));
        if !self.manifest.is_empty() {
            out.extend(bytes(8, &self.manifest));
        }
        for digest in &self.manifest_chunks {
            out.extend(bytes(9, digest));
        }
        out
    }
}

/// Messages, each after its length.
pub fn delimit(messages: &[Vec<u8>]) -> Vec<u8> {
    let delimited =
        messages.iter().map(|message| [&varint(message.len() as u64), &message[..]].concat());
    delimited.collect::<Vec<_>>().concat()
}

/// The body of `paths` for these messages.
pub fn paths_body(messages: &[Vec<u8>]) -> Vec<u8> {
    zstd::stream::encode_all(&delimit(messages)[..], 1).expect("zstd compresses")
}

/// The body of `sync` that asks for paths by their hash parts.
pub fn sync_question(hashes: &[Vec<u8>], closure: u64, trees: u64) -> Vec<u8> {
    [bytes(1, &hashes.concat()), number(2, closure), number(3, trees)].concat()
}

/// Hash part and narinfo of each path in an answer of `sync`.
pub fn synced(answer: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let field = |message: &[u8], field| all_bytes(message, field).concat();
    let paths = paths_messages(answer).into_iter();
    paths.map(|message| (field(&message, 1), field(&message, 2))).collect()
}

/// The messages in a body of `paths`.
pub fn paths_messages(body: &[u8]) -> Vec<Vec<u8>> {
    delimited(&zstd::stream::decode_all(body).expect("it is zstd's"))
}

fn delimited(mut all: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while !all.is_empty() {
        messages.push(read_delimited(&mut all).to_vec());
    }
    messages
}

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One of the three above.
    pub outcome: u64,
    /// Why it was refused.
    pub message: String,
    /// The chunks that are missing.
    pub missing: Vec<Digest>,
}

/// The outcomes in an answer of `paths`, without the signs of life between them.
pub fn outcomes(answer: &[u8]) -> Vec<Outcome> {
    let outcomes = delimited(answer).into_iter().map(|message| Outcome {
        outcome: number_in(&message, 1),
        message: all_bytes(&message, 2)
            .first()
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default(),
        missing: all_bytes(&message, 3)
            .into_iter()
            .map(|digest| digest.try_into().expect("32 bytes"))
            .collect(),
    });
    outcomes.filter(|outcome| outcome.outcome != 0).collect()
}
