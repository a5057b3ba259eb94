//! Taking a tree in: one pass over its files, in order, with bounded memory.
//!
//! The caller walks a tree depth first and tells an [`Upload`] what it meets. Files that fit into
//! 1 MiB (`WHOLE_FILE`) are hashed whole and looked up before anything else is done with them; longer
//! ones are cut as they come. Chunks are compressed by the store's workers and gathered in runs, so
//! that the chunks of one upload lie together and in order. Nothing becomes visible: a caller
//! commits a fact that names the tree.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::{Bytes, BytesMut};

use crate::Digest;
use crate::chunking::{Chunker, MAX_CHUNK, MIN_CHUNK};
use crate::gc::Flight;
use crate::holder::{Claims, Holder};
use crate::log::Run;
use crate::pack::{FrameEncoder, Kind, Row};
use crate::store::{Store, StoreError};
use crate::tree::{BuildError, ChunkList, ChunkRef, Node, NodeName, TreeBuilder};
use crate::workers::{ChunkJob, Encoded};

/// Files up to this length are held in memory, to be looked up by digest before they are cut.
const WHOLE_FILE: u64 = 1024 * 1024;
/// Plain bytes handed to a worker at once. Small chunks share a hand-over.
const BATCH: usize = 256 * 1024;
/// Batches of one upload that may be with the workers.
const IN_FLIGHT: usize = 4;
/// Stored bytes gathered before they are appended to the pack as one run.
const RUN: usize = 1024 * 1024;
/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// The tree itself is at fault.
    #[error(transparent)]
    Tree(#[from] BuildError),
    /// The caller's calls do not make up a tree, or a file has another length than announced.
    #[error("{0}")]
    Misuse(&'static str),
    /// The store is at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Reading or writing records failed.
    #[error("the packs could not be read or written: {0}")]
    Io(#[from] io::Error),
}

/// A tree that was taken in. It stays when a fact is committed that names it.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The root node.
    pub root: Node,
    /// Digest of the tree record.
    pub tree: Digest,
    /// Plain bytes of files.
    pub plain: u64,
    /// Bytes that were new and have been stored.
    pub stored: u64,
    /// Plain bytes to which the holder had claims when they came. Unlike `stored` this tells the
    /// holder nothing about anybody else.
    pub known: u64,
    /// Keeps what it found to be stored, until the fact is committed.
    pub flight: Arc<Flight>,
}

struct OpenFile {
    name: Option<NodeName>,
    executable: bool,
    size: u64,
    left: u64,
    contents: Contents,
}

enum Contents {
    Whole(BytesMut),
    Cut { hasher: Box<blake3::Hasher>, chunker: Chunker },
}

/// What the workers owe, in order.
enum Owed {
    Batch(Receiver<io::Result<Encoded>>),
    /// So many of the chunks before this are the blob's, and they want a list.
    ListEnd {
        blob: Digest,
        size: u64,
    },
    ListStart,
}

/// A tree on its way in. Calls block; they belong on a thread that may wait.
pub struct Upload {
    store: Arc<Store>,
    flight: Arc<Flight>,
    claims: Claims,
    tree: TreeBuilder,
    file: Option<OpenFile>,
    batch: Vec<ChunkJob>,
    batch_bytes: usize,
    /// Small blobs whose chunk is on its way, so that a twin in the same tree is not compressed.
    underway: HashSet<Digest>,
    owed: VecDeque<Owed>,
    list: Option<ChunkList>,
    run: Run,
    encoder: Option<FrameEncoder>,
    plain: u64,
    stored: u64,
    known: u64,
}

impl Upload {
    pub(crate) fn new(store: Arc<Store>, flight: Flight) -> Self {
        Self {
            store,
            flight: Arc::new(flight),
            claims: Claims::none(),
            tree: TreeBuilder::default(),
            file: None,
            batch: Vec::new(),
            batch_bytes: 0,
            underway: HashSet::new(),
            owed: VecDeque::new(),
            list: None,
            run: Run::default(),
            encoder: None,
            plain: 0,
            stored: 0,
            known: 0,
        }
    }

    /// Gives `holder` a claim to every chunk of the tree.
    pub fn held_by(mut self, holder: Holder) -> Self {
        self.claims = Claims::of(holder);
        self
    }

    fn between_files(&mut self) -> Result<&mut TreeBuilder, UploadError> {
        if self.file.is_some() {
            return Err(UploadError::Misuse("a file is not finished"));
        }
        Ok(&mut self.tree)
    }

    /// Enters a directory. The root's name is empty.
    pub fn enter_directory(&mut self, name: &[u8]) -> Result<(), UploadError> {
        Ok(self.between_files()?.enter_directory(name)?)
    }

    /// Leaves the directory entered last.
    pub fn leave_directory(&mut self) -> Result<(), UploadError> {
        Ok(self.between_files()?.leave_directory()?)
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), UploadError> {
        Ok(self.between_files()?.symlink(name, target)?)
    }

    /// Starts a file of `size` bytes, which [`Upload::write`] then brings.
    pub fn start_file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
    ) -> Result<(), UploadError> {
        let name = self.between_files()?.name(name)?;
        let contents = if size <= WHOLE_FILE {
            Contents::Whole(BytesMut::with_capacity(size as usize))
        } else {
            self.owed_after_batch(Owed::ListStart)?;
            Contents::Cut { hasher: Box::default(), chunker: Chunker::default() }
        };
        self.file = Some(OpenFile { name, executable, size, left: size, contents });
        if size == 0 { self.end_file() } else { Ok(()) }
    }

    /// Adds bytes to the file that was started; the last of them ends it.
    pub fn write(&mut self, data: &[u8]) -> Result<(), UploadError> {
        let file = self.file.as_mut().ok_or(UploadError::Misuse("no file was started"))?;
        file.left = file
            .left
            .checked_sub(data.len() as u64)
            .ok_or(UploadError::Misuse("a file is longer than announced"))?;
        let ended = file.left == 0;
        match &mut file.contents {
            Contents::Whole(buffer) => buffer.extend_from_slice(data),
            Contents::Cut { hasher, chunker } => {
                hasher.update(data);
                let mut chunks = Vec::new();
                chunker.write(data, |chunk| chunks.push(chunk));
                if ended {
                    chunker.finish(|chunk| chunks.push(chunk));
                }
                for chunk in chunks {
                    self.add_chunk(None, chunk)?;
                }
            }
        }
        if ended { self.end_file() } else { Ok(()) }
    }

    fn end_file(&mut self) -> Result<(), UploadError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        self.plain += file.size;
        let digest = match file.contents {
            Contents::Whole(buffer) => self.add_whole(buffer.freeze())?,
            Contents::Cut { hasher, .. } => {
                let blob = Digest::from(hasher.finalize());
                self.owed_after_batch(Owed::ListEnd { blob, size: file.size })?;
                blob
            }
        };
        let (size, executable) = (file.size, file.executable);
        Ok(self.tree.place(file.name, Node::File { digest, size, executable })?)
    }

    /// Takes a short file in; returns its digest.
    fn add_whole(&mut self, plain: Bytes) -> Result<Digest, UploadError> {
        let (blob, size) = (Digest::of(&plain), plain.len() as u64);
        if plain.is_empty() || self.underway.contains(&blob) || self.tree.has_list(&blob) {
            // It came before in this very tree.
            self.known += size;
            return Ok(blob);
        }
        if self.store.stays(Kind::Chunk, &blob)? {
            self.claim(&blob, size)?;
            return Ok(blob);
        }
        if plain.len() > MIN_CHUNK
            && let Some(list) = self.whole_list(&blob)?
        {
            for chunk in &list.chunks {
                self.claim(&chunk.digest, chunk.size.into())?;
            }
            self.tree.set_list(blob, Digest::of(&list.encode()));
            return Ok(blob);
        }
        let (mut chunker, mut chunks) = (Chunker::default(), Vec::new());
        if plain.len() <= MIN_CHUNK {
            chunks.push(plain);
        } else {
            chunker.cut_whole(&plain, |chunk| chunks.push(chunk));
        }
        if let [chunk] = &mut chunks[..] {
            self.underway.insert(blob);
            let chunk = std::mem::take(chunk);
            self.add_chunk(Some(blob), chunk)?;
            return Ok(blob);
        }
        self.owed_after_batch(Owed::ListStart)?;
        for chunk in chunks {
            self.add_chunk(None, chunk)?;
        }
        self.owed_after_batch(Owed::ListEnd { blob, size })?;
        Ok(blob)
    }

    /// The list of a blob whose chunks all stay, as it does itself.
    fn whole_list(&self, blob: &Digest) -> Result<Option<ChunkList>, StoreError> {
        if !self.store.stays(Kind::ChunkList, blob)? {
            return Ok(None);
        }
        let Some(list) = self.store.chunk_list(blob)? else { return Ok(None) };
        for chunk in &list.chunks {
            if !self.store.stays(Kind::Chunk, &chunk.digest)? {
                return Ok(None);
            }
        }
        Ok(Some(list))
    }

    fn add_chunk(&mut self, digest: Option<Digest>, plain: Bytes) -> Result<(), UploadError> {
        debug_assert!(plain.len() <= MAX_CHUNK);
        self.batch_bytes += plain.len();
        self.batch.push(ChunkJob { digest, plain });
        if self.batch_bytes >= BATCH { self.submit() } else { Ok(()) }
    }

    /// Hands the batch over to the workers.
    fn submit(&mut self) -> Result<(), UploadError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let owed = self.store.workers().submit(batch, self.store.locations().clone())?;
        self.owed.push_back(Owed::Batch(owed));
        self.settle(IN_FLIGHT)
    }

    fn owed_after_batch(&mut self, owed: Owed) -> Result<(), UploadError> {
        self.submit()?;
        self.owed.push_back(owed);
        self.settle(IN_FLIGHT)
    }

    /// Takes results in until at most `keep` batches are outstanding.
    fn settle(&mut self, keep: usize) -> Result<(), UploadError> {
        let batches = |owed: &VecDeque<Owed>| {
            owed.iter().filter(|owed| matches!(owed, Owed::Batch(_))).count()
        };
        let mut outstanding = batches(&self.owed);
        while outstanding > keep || !matches!(self.owed.front(), Some(Owed::Batch(_)) | None) {
            match self.owed.pop_front() {
                Some(Owed::Batch(result)) => {
                    outstanding -= 1;
                    let gone = |_| io::Error::other("a thread that compresses has ended");
                    self.take_in(result.recv().map_err(gone)??)?;
                }
                Some(Owed::ListStart) => self.list = Some(ChunkList::default()),
                Some(Owed::ListEnd { blob, size }) => self.end_list(blob, size)?,
                None => break,
            }
        }
        Ok(())
    }

    fn take_in(&mut self, encoded: Encoded) -> Result<(), UploadError> {
        if let Some(list) = &mut self.list {
            let chunk = |&(digest, size)| ChunkRef { digest, size, patches: Vec::new() };
            list.chunks.extend(encoded.chunks.iter().map(chunk));
        }
        for (digest, size) in &encoded.chunks {
            self.claim(digest, (*size).into())?;
        }
        let base = self.run.bytes.len() as u64;
        self.run.bytes.extend_from_slice(&encoded.run.bytes);
        let rows = encoded.run.rows.iter().map(|row| Row { offset: base + row.offset, ..*row });
        self.run.rows.extend(rows);
        if self.run.bytes.len() + self.claims.bytes() >= RUN { self.flush() } else { Ok(()) }
    }

    fn claim(&mut self, chunk: &Digest, size: u64) -> Result<(), StoreError> {
        if self.claims.add(&self.store, chunk)? {
            self.known += size;
        }
        Ok(())
    }

    fn end_list(&mut self, blob: Digest, size: u64) -> Result<(), UploadError> {
        let list = self.list.take().unwrap_or_default();
        if list.size() != Some(size) {
            return Err(UploadError::Misuse("the chunks of a file do not add up to it"));
        }
        if let [chunk] = &list.chunks[..]
            && chunk.digest == blob
        {
            return Ok(());
        }
        let bytes = list.encode();
        self.tree.set_list(blob, Digest::of(&bytes));
        self.add_record(Kind::ChunkList, blob, &bytes)
    }

    fn add_record(&mut self, kind: Kind, digest: Digest, plain: &[u8]) -> Result<(), UploadError> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(FrameEncoder::new()?),
        };
        Ok(self.run.add(encoder, kind, digest, plain)?)
    }

    fn flush(&mut self) -> Result<(), UploadError> {
        self.stored += self.run.bytes.len() as u64;
        self.claims.append_to(&mut self.run)?;
        self.flight.wrote(self.store.append(&self.run)?);
        self.run.clear();
        Ok(())
    }

    /// The tree is complete: appends what is left of it. Until here an upload of less than a
    /// megabyte has left nothing behind.
    pub fn finish(mut self) -> Result<Uploaded, UploadError> {
        self.between_files()?;
        if !self.tree.is_closed() {
            return Err(UploadError::Misuse("the tree is not complete"));
        }
        self.submit()?;
        self.settle(0)?;
        let (root, bytes) = std::mem::take(&mut self.tree).finish()?;
        let tree = Digest::of(&bytes);
        self.add_record(Kind::Tree, tree, &bytes)?;
        self.flush()?;
        let Self { plain, stored, known, flight, .. } = self;
        Ok(Uploaded { root, tree, plain, stored, known, flight })
    }
}
