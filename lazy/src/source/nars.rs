//! Any binary cache: a path comes as its NAR, which is fetched, verified whole, and then kept as
//! chunks like any other's.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use castore::blob::BlobBuilder;
use castore::chunking::Chunker;
use castore::pack::FrameEncoder;
use castore::tree::{Node, TreeBuilder};
use castore::{Digest, Kind};
use granary_api::sync::{SyncPaths, SyncedPath};
use granary_client::migrate::{self, Trust};
use nix_compat::nar::{Event, Reader};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest as _;

use super::{Keep, SourceError};

/// Records are given to the disk in pieces of this size.
const PIECE: usize = 4 * 1024 * 1024;

/// A binary cache.
pub struct Nars {
    source: migrate::Source,
    name: String,
}

/// A path whose NAR was verified. Its chunks are on disk.
pub(crate) struct Whole {
    pub tree: Vec<u8>,
    pub lists: Vec<Vec<u8>>,
    /// SHA-256 of the file that the path is, if it is one.
    file: Option<Sha256>,
}

impl Nars {
    /// The binary cache; `name` is what a person calls it.
    pub fn new(source: migrate::Source, name: String) -> Self {
        Self { source, name }
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// The narinfos of the paths that are asked for. What they refer to has to be asked for, too.
    pub(super) async fn sync(&self, question: &SyncPaths) -> Result<Vec<SyncedPath>, SourceError> {
        let (hashes, _) = question.hashes.as_chunks::<20>();
        let mut answer = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let name = StorePathHash::from(*hash).to_string();
            let narinfo = self.source.narinfo(&name).await;
            let narinfo = narinfo.map_err(|error| SourceError::of(&error))?.unwrap_or_default();
            let (hash, narinfo) = (hash.to_vec(), narinfo.to_vec());
            answer.push(SyncedPath { hash, narinfo, ..SyncedPath::default() });
        }
        Ok(answer)
    }

    /// Fetches a path whole.
    pub(super) async fn whole(
        &self,
        hash: StorePathHash,
        narinfo: &str,
        trust: &Trust,
        keep: Keep,
    ) -> Result<Whole, SourceError> {
        let narinfo = narinfo.to_owned().into();
        let consume = move |nar: &mut dyn Read| unpack(nar, &keep);
        let read = self.source.read_nar(&narinfo, hash, trust, consume, |whole| whole.file).await;
        read.map(|(_, whole)| whole).map_err(SourceError)
    }
}

/// Makes a tree of a NAR, and gives its chunks away. They are what their digests say, whether the NAR
/// turns out to be right or not.
pub(crate) fn unpack(nar: &mut dyn Read, keep: &Keep) -> Result<Whole, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut reader = Reader::new(nar);
    let mut tree = TreeBuilder::default();
    let mut chunks = Chunks::new(keep).map_err(|error| text(&error))?;
    let mut file_hash = None;
    loop {
        let event = reader.next().map_err(|error| text(&error))?;
        match event {
            None => break,
            Some(Event::EnterDirectory { name }) => tree.enter_directory(name),
            Some(Event::LeaveDirectory) => tree.leave_directory(),
            Some(Event::Symlink { name, target }) => tree.symlink(name, target),
            Some(Event::File { name, executable, size }) => {
                let is_root = tree.is_closed();
                let name = tree.name(name).map_err(|error| text(&error))?;
                let (digest, hash) = chunks.file(&mut reader, size, is_root)?;
                file_hash = hash.or(file_hash);
                tree.place(name, Node::File { digest, size, executable })
            }
        }
        .map_err(|error| text(&error))?;
    }
    reader.finish().map_err(|error| text(&error))?;
    let lists = chunks.finish();
    lists.iter().for_each(|(blob, list)| tree.set_list(*blob, Digest::of(list)));
    let (_, tree) = tree.finish().map_err(|error| text(&error))?;
    Ok(Whole { tree, lists: lists.into_values().collect(), file: file_hash })
}

/// Chunks on their way to the disk.
struct Chunks<'k> {
    keep: &'k Keep,
    encoder: FrameEncoder,
    records: Vec<u8>,
    seen: HashSet<Digest>,
    lists: BTreeMap<Digest, Vec<u8>>,
}

impl<'k> Chunks<'k> {
    fn new(keep: &'k Keep) -> std::io::Result<Self> {
        let encoder = FrameEncoder::new()?;
        let (records, seen, lists) = (Vec::new(), HashSet::new(), BTreeMap::new());
        Ok(Self { keep, encoder, records, seen, lists })
    }

    /// Reads a file's contents; its digest, and with `hashed` its SHA-256.
    fn file(
        &mut self,
        reader: &mut Reader<&mut dyn Read>,
        size: u64,
        hashed: bool,
    ) -> Result<(Digest, Option<Sha256>), String> {
        let mut blob = BlobBuilder::new(size);
        let mut chunker = Chunker::default();
        let mut hash = hashed.then(sha2::Sha256::new);
        let mut failed = Ok(());
        loop {
            let contents = reader.fill_contents().map_err(|error| error.to_string())?;
            if contents.is_empty() {
                break;
            }
            blob.write(contents);
            if let Some(hash) = &mut hash {
                hash.update(contents);
            }
            chunker.write(contents, |chunk| {
                if failed.is_ok() {
                    failed = self.add(&chunk);
                }
            });
            let taken = contents.len();
            reader.consume_contents(taken);
        }
        chunker.finish(|chunk| {
            if failed.is_ok() {
                failed = self.add(&chunk);
            }
        });
        failed.map_err(|error| error.to_string())?;
        let blob = blob.finish();
        if let Some(list) = blob.list() {
            self.lists.insert(blob.digest, list);
        }
        Ok((blob.digest, hash.map(|hash| Sha256::from(<[u8; 32]>::from(hash.finalize())))))
    }

    fn add(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        let digest = Digest::of(chunk);
        if chunk.is_empty() || !self.seen.insert(digest) {
            return Ok(());
        }
        (self.keep.seen)(&digest, chunk);
        let Some(disk) = &self.keep.disk else { return Ok(()) };
        if disk.has(Kind::Chunk, &digest) {
            return Ok(());
        }
        self.encoder.append(&mut self.records, Kind::Chunk, digest, chunk)?;
        if self.records.len() >= PIECE {
            disk.put(&self.records);
            self.records.clear();
        }
        Ok(())
    }

    fn finish(self) -> BTreeMap<Digest, Vec<u8>> {
        if let Some(disk) = &self.keep.disk {
            disk.put(&self.records);
        }
        self.lists
    }
}
