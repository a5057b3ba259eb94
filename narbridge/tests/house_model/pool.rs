//! What is pushed: a few NARs that have most of their files in common, and paths that refer to each other.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::LazyLock;

use castore::tree::{ChunkList, Tree};
use castore::{Digest, Options};
use granary_api::sync::SyncPaths;
use narbridge::Storehouse;
use narbridge::cache::{CacheSettings, NarName, Pusher};
use narbridge::compression::Compression;
use nix_compat::nar::Writer;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::{StorePath, StorePathHash};
use sha2::Digest as _;

use crate::model::folder::in_memory;
use crate::model::op::Dice;

/// A NAR in all the ways in which it comes.
pub struct Nar {
    pub bytes: Vec<u8>,
    pub hash: Sha256,
    pub gzip: Vec<u8>,
    pub gzip_hash: Sha256,
    /// Its tree and the chunk lists, encoded.
    pub tree: Vec<u8>,
    pub lists: Vec<Vec<u8>>,
    /// The records of its chunks, each chunk once.
    pub records: Vec<(Digest, Vec<u8>)>,
}

impl Nar {
    /// The name under which it is uploaded, plain or as gzip.
    pub fn name(&self, gzip: bool) -> NarName {
        NarName { hash: if gzip { self.gzip_hash } else { self.hash }, compression: None }
    }

    /// What is uploaded then.
    pub fn body(&self, gzip: bool) -> &[u8] {
        if gzip { &self.gzip } else { &self.bytes }
    }

    /// The name under which it is served.
    pub fn served(&self) -> NarName {
        NarName { hash: self.hash, compression: Some(Compression::Zstd) }
    }

    pub fn chunks(&self) -> impl Iterator<Item = Digest> {
        self.records.iter().map(|(digest, _)| *digest)
    }
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(bytes)))
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// Files around the lengths at which they are cut, and some that begin as others do.
fn files() -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = [0, 150, 900, 5_000, 20_000, 33_000]
        .iter()
        .zip(0..)
        .map(|(len, seed)| noise(seed, *len))
        .collect();
    let start = noise(50, 110_000);
    for end in 60..63 {
        files.push([&start[..], &noise(end, 40_000)].concat());
    }
    files.extend((70..70 + SELDOM as u8).map(|seed| noise(seed, 9_000)));
    files
}

fn nar_of(files: &[&[u8]]) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    if let [only] = files {
        nar.file(b"", true, only.len() as u64, &mut &only[..]).unwrap();
        return nar.finish().unwrap();
    }
    nar.enter_directory(b"").unwrap();
    for (at, file) in files.iter().enumerate() {
        let name = format!("file-{at}");
        nar.file(name.as_bytes(), false, file.len() as u64, &mut &file[..]).unwrap();
    }
    nar.symlink(b"link", b"file-0").unwrap();
    nar.leave_directory().unwrap();
    nar.finish().unwrap()
}

/// So many of the NARs, the last ones, hold what no other does, and are in few paths: what they hold is
/// mostly not there.
const SELDOM: usize = 4;

/// One of the NARs, mostly one of those.
pub fn seldom(number: u16) -> usize {
    let (len, number) = (NARS.len(), usize::from(number));
    if number.is_multiple_of(3) { number % len } else { len - 1 - number % SELDOM }
}

/// All of them, by the numbers of their files.
pub static NARS: LazyLock<Vec<Nar>> = LazyLock::new(|| {
    let made: &[&[usize]] = &[
        &[0],
        &[1],
        &[3],
        &[4],
        &[6],
        &[1, 2],
        &[2, 3],
        &[3, 4],
        &[0, 4, 5],
        &[5, 6],
        &[5, 7],
        &[1, 3, 7],
        &[8, 2],
        &[6, 8],
        &[9],
        &[10],
        &[11],
        &[12],
    ];
    let files = files();
    let dir = in_memory();
    let house = Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap();
    let settings = CacheSettings::default();
    let cache = house.create_cache(&"pool".parse().unwrap(), &settings, None).unwrap();
    let make = |(at, made): (usize, &&[usize])| {
        let bytes = nar_of(&made.iter().map(|file| &files[*file][..]).collect::<Vec<_>>());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let gzip = gzip.finish().unwrap();
        // A server takes it apart: what is right is told by the hash of the NAR, whoever does it.
        let path = StorePath::new([at as u8; 20].into(), "pool").unwrap();
        let info = info(path.clone(), sha256(&bytes), bytes.len() as u64, Vec::new());
        cache.publish_nar(&info, &bytes[..], &pusher(&cache), u64::MAX).unwrap();
        let hashes = path.hash().as_bytes().to_vec();
        let question = SyncPaths { hashes, trees: true, ..Default::default() };
        let synced = cache.sync(&question).unwrap().next().unwrap().unwrap();
        let tree = Tree::decode(&synced.tree).unwrap();
        let listed = synced.lists.iter().flat_map(|list| ChunkList::decode(list).unwrap().chunks);
        let mut chunks: BTreeSet<Digest> = listed.map(|chunk| chunk.digest).collect();
        let whole = tree.files().into_iter().filter(|(blob, _)| tree.list_of(blob).is_none());
        chunks.extend(whole.filter(|(_, size)| *size > 0).map(|(blob, _)| blob));
        let record = |chunk: Digest| {
            (chunk, cache.chunk_records(&[chunk]).unwrap().read_all().unwrap().to_vec())
        };
        Nar {
            hash: sha256(&bytes),
            gzip_hash: sha256(&gzip),
            bytes,
            gzip,
            tree: synced.tree,
            lists: synced.lists,
            records: chunks.into_iter().map(record).collect(),
        }
    };
    made.iter().enumerate().map(make).collect()
});

/// Somebody who may read the cache.
pub fn pusher(cache: &narbridge::Cache) -> Pusher {
    let (holders, intake) = (vec![cache.holder()], cache.holder());
    Pusher { holders, intake, subject: "ci".to_owned(), reads: true }
}

pub fn info(
    store_path: StorePath,
    nar_hash: Sha256,
    nar_size: u64,
    references: Vec<StorePath>,
) -> NarInfo<'static> {
    NarInfo {
        store_path,
        url: "",
        compression: None,
        file_hash: None,
        file_size: None,
        nar_hash,
        nar_size,
        references,
        deriver: None,
        system: None,
        signatures: Vec::new(),
        ca: None,
        unknown: Vec::new(),
        flags: Flags::default(),
    }
}

/// How many paths there can be.
pub const PATHS: usize = 30;

/// The paths of a run.
pub struct Paths {
    paths: Vec<StorePath>,
    references: Vec<Vec<usize>>,
    nars: Vec<usize>,
}

impl Paths {
    /// Paths that refer to those with smaller numbers, some to themselves, and the last two to each other.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x7061_7468);
        let (mut paths, mut references, mut nars) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..PATHS {
            let mut hash = [0; 20];
            hash.fill_with(|| dice.roll() as u8);
            paths.push(StorePath::new(hash.into(), &format!("p{number}")).unwrap());
            let mut to = BTreeSet::new();
            for _ in 0..dice.below(4).min(number as u64) {
                to.insert(dice.below(number as u64) as usize);
            }
            if dice.below(4) == 0 {
                to.insert(number);
            }
            if number + 2 == PATHS {
                to.insert(number + 1);
            } else if number + 1 == PATHS {
                to.insert(number - 1);
            }
            references.push(to.into_iter().collect());
            nars.push(dice.below((NARS.len() - SELDOM) as u64) as usize);
        }
        Self { paths, references, nars }
    }

    pub fn path(&self, number: usize) -> &StorePath {
        &self.paths[number]
    }

    pub fn hash(&self, number: usize) -> StorePathHash {
        self.paths[number].hash()
    }

    /// The number of the path with that hash part.
    pub fn number(&self, hash: StorePathHash) -> Option<usize> {
        self.paths.iter().position(|path| path.hash() == hash)
    }

    /// What a path holds, and what it refers to, when it is built in one way or the other.
    pub fn built(&self, number: usize, otherwise: bool) -> (usize, Vec<usize>) {
        let (nar, references) = (self.nars[number], &self.references[number]);
        match otherwise {
            false => (nar, references.clone()),
            true => ((nar + 3) % NARS.len(), references.iter().skip(1).copied().collect()),
        }
    }
}
