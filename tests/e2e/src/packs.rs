//! The packs of a data directory, read by a zstd that knows nothing of Granary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kind of a record that is a chunk, see docs/pack-format.md.
pub const CHUNK: u8 = 1;

/// Before each record: a skippable frame of zstd's.
const HEADER: usize = 64;
const MAGIC: [u8; 4] = 0x184D_2A5C_u32.to_le_bytes();

/// A record of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// What it is.
    pub kind: u8,
    /// What it is addressed by.
    pub digest: [u8; 32],
    /// Header and frames, in bytes.
    pub size: u64,
    /// What it decodes to, in bytes.
    pub plain: u64,
}

/// The records that lie one behind the other in `bytes`, up to whatever is none.
pub fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        if header[..4] != MAGIC || number(4) != 56 || header[8] != 1 {
            break;
        }
        let Some(rest) = rest.get(number(12) as usize..) else { break };
        let digest = header[24..56].try_into().expect("32 bytes");
        let size = HEADER as u64 + u64::from(number(12));
        let plain = u64::from_le_bytes(header[16..24].try_into().expect("eight"));
        records.push(Record { kind: header[9], digest, size, plain });
        bytes = rest;
    }
    records
}

/// The records of all packs.
pub fn all_records(data: &Path) -> Vec<Record> {
    let start = 8 + 24;
    let read = |pack: PathBuf| fs::read(pack).expect("a pack");
    let of = |pack| records(read(pack).get(start..).unwrap_or_default());
    packs(data).into_iter().flat_map(of).collect()
}

fn packs(data: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(data.join("packs")).expect("the data directory has packs");
    folder.map(|entry| entry.expect("an entry").path()).collect()
}

/// What [`decode_all`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// Packs that are complete.
    pub sealed: usize,
    /// Packs that still grow.
    pub open: usize,
    /// Bytes that they all decode to.
    pub plain: u64,
}

/// Runs `zstd -dc` over every pack, sealed or not; panics where it complains.
pub fn decode_all(data: &Path) -> Found {
    let mut found = Found::default();
    for pack in packs(data) {
        match pack.extension().and_then(|extension| extension.to_str()) {
            Some("pack") => found.sealed += 1,
            Some("open") => found.open += 1,
            _ => panic!("{} is no pack", pack.display()),
        }
        let mut zstd = Command::new("zstd")
            .arg("-dc")
            .arg(&pack)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("zstd runs");
        let mut stdout = zstd.stdout.take().expect("piped");
        found.plain += std::io::copy(&mut stdout, &mut std::io::sink()).expect("zstd writes");
        let status = zstd.wait().expect("zstd ends");
        assert!(status.success(), "zstd -dc {}: {status}", pack.display());
    }
    found
}
