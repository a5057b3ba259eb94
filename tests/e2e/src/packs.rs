//! The packs of a store, read by a zstd that knows nothing of Granary.
//!
//! On disk a pack lies in the data directory, from its first record on. On S3 it is an object once it
//! is sealed, which is before anything in it is acknowledged; until then it grows in a *spool* file
//! of the data directory, which nobody misses when it is lost.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::backing::Backing;

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

/// The records of all packs, those that still grow among them.
pub fn all_records(data: &Path) -> Vec<Record> {
    // A pack goes from the spool to the bucket, so this order misses none.
    let growing = growing(data);
    let packs = packs(data);
    let uploaded: BTreeSet<_> = packs.iter().filter_map(|pack| pack.file_stem()).collect();
    let growing = growing.iter().filter(|(name, _)| !uploaded.contains(name.as_os_str()));
    let growing = growing.flat_map(|(_, bytes)| records_of(bytes));
    packs.iter().flat_map(|pack| records_of(&read(pack))).chain(growing).collect()
}

/// The records behind the start of a pack.
fn records_of(pack: &[u8]) -> Vec<Record> {
    records(pack.get(8 + 24..).unwrap_or_default())
}

/// The bytes that packs take, those of a server's that still grow among them.
pub fn total_len(data: &Path) -> u64 {
    packs(data).iter().map(|pack| fs::metadata(pack).map_or(0, |file| file.len())).sum()
}

/// The names of the packs that are there for good, without their ends.
pub fn names(data: &Path) -> BTreeSet<OsString> {
    packs(data).iter().filter_map(|pack| Some(pack.file_stem()?.to_owned())).collect()
}

/// Whatever is there for good.
fn packs(data: &Path) -> Vec<PathBuf> {
    let backing = Backing::of(data);
    let folder = backing.objects().unwrap_or(data).join("packs");
    let listed = fs::read_dir(&folder);
    let listed = listed.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    // Notes lie beside the packs of a folder, and are called by one word.
    let files = listed.map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.extension().is_some()).collect()
}

fn read(pack: &Path) -> Vec<u8> {
    // One that was open when it was listed may have been sealed since.
    let read = fs::read(pack).or_else(|_| fs::read(pack.with_extension("pack")));
    read.unwrap_or_else(|error| panic!("{}: {error}", pack.display()))
}

/// Names and bytes of the packs that are on their way to a bucket.
fn growing(data: &Path) -> Vec<(OsString, Vec<u8>)> {
    let Ok(listed) = fs::read_dir(data.join("objects/spool")) else { return Vec::new() };
    let mut packs = Vec::new();
    for path in listed.map(|entry| entry.expect("an entry").path()) {
        match (path.file_stem(), fs::read(&path)) {
            (Some(name), Ok(bytes)) => packs.push((name.to_owned(), bytes)),
            // It has arrived in the meantime.
            (_, Err(error)) if error.kind() == ErrorKind::NotFound => {}
            (_, other) => panic!("{}: {:?}", path.display(), other.map(|bytes| bytes.len())),
        }
    }
    packs
}

/// Forgets what a stopped server has read from its bucket, so that it has to ask again.
pub fn forget_read(data: &Path) {
    let cache = data.join("objects/cache");
    let read = fs::read_dir(&cache).map(Iterator::count);
    assert!(read.is_ok_and(|files| files > 0), "nothing in {}", cache.display());
    fs::remove_dir_all(cache).expect("it goes");
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

/// Runs `zstd -dc` over every pack that is there for good, sealed or not; panics where it complains.
/// Objects are sealed, all of them.
pub fn decode_all(data: &Path) -> Found {
    let mut found = Found::default();
    let are_objects = Backing::of(data).objects().is_some();
    for pack in packs(data) {
        match pack.extension().and_then(|extension| extension.to_str()) {
            Some("pack") => found.sealed += 1,
            Some("open") if !are_objects => found.open += 1,
            _ => panic!("{} is no pack", pack.display()),
        }
        let mut zstd = Command::new("zstd")
            .arg("-dc")
            .arg(&pack)
            .stdout(Stdio::piped())
            .spawn()
            .expect("zstd runs");
        let mut stdout = zstd.stdout.take().expect("piped");
        found.plain += std::io::copy(&mut stdout, &mut std::io::sink()).expect("zstd writes");
        let status = zstd.wait().expect("zstd ends");
        assert!(status.success(), "zstd -dc {}: {status}", pack.display());
    }
    found
}
