//! Assembling a tree from chunks that came before it.
//!
//! A client that knows the store's format sends a tree and its chunk lists, and only the chunks that
//! are missing. Before the tree is kept, every blob is read once: a list is believed when the bytes
//! it leads to have the blob's digest, and are cut where everybody cuts them. Lists are shared like
//! chunks, so a list that is wrong, or cut elsewhere, would otherwise be somebody else's.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use crate::Digest;
use crate::blob::BlobBuilder;
use crate::gc::{Flight, Rescue};
use crate::holder::{Claims, Holder};
use crate::log::Run;
use crate::pack::{FrameEncoder, Kind};
use crate::store::{Cause, Reader, Store, StoreError};
use crate::tree::{ChunkList, ChunkRef, Tree, TreeError};

/// Why a tree could not be assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssemblyError {
    /// The tree, or a list, is not one.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A list that the tree names was not sent, or one was sent that it does not name.
    #[error("chunk list {0} is missing, or not the tree's")]
    List(Digest),
    /// A blob is not what the tree says.
    #[error("file {blob}: {what}")]
    Blob {
        /// Its digest.
        blob: Digest,
        /// What is wrong.
        what: &'static str,
    },
    /// The store is at fault, or has lost something.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A tree whose chunks are, or should be, in the store.
pub struct Assembly {
    store: Arc<Store>,
    flight: Arc<Flight>,
    reader: Reader,
    tree: Arc<Tree>,
    encoded: Vec<u8>,
    /// The blobs that have a list, with the list and its encoding.
    lists: HashMap<Digest, (ChunkList, Vec<u8>)>,
    /// Blobs whose list is not proven yet.
    unproven: HashSet<Digest>,
    plain: Vec<u8>,
}

impl Store {
    /// Starts to assemble an encoded tree; `lists` are the encoded chunk lists it names, sorted by
    /// their blobs' digests.
    pub fn assemble(
        self: &Arc<Self>,
        tree: Vec<u8>,
        lists: Vec<Vec<u8>>,
    ) -> Result<Assembly, AssemblyError> {
        let encoded = tree;
        let tree = Tree::decode(&encoded)?;
        if let Some(stray) = lists.get(tree.lists().len()) {
            return Err(AssemblyError::List(Digest::of(stray)));
        }
        let mut sent = lists.into_iter();
        let (mut lists, mut unproven) = (HashMap::new(), HashSet::new());
        for (blob, expected) in tree.lists() {
            let bytes = sent.next().filter(|bytes| Digest::of(bytes) == *expected);
            let bytes = bytes.ok_or(AssemblyError::List(*expected))?;
            lists.insert(*blob, (ChunkList::decode(&bytes)?, bytes));
            unproven.insert(*blob);
        }
        let flight = Arc::new(self.flight()?);
        let (store, reader) = (self.clone(), self.reader()?);
        let (tree, plain) = (Arc::new(tree), Vec::new());
        Ok(Assembly { store, flight, reader, tree, encoded, lists, unproven, plain })
    }
}

impl Assembly {
    /// The tree.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The tree as it is encoded.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Whether every list is known to be right.
    pub fn is_proven(&self) -> bool {
        self.unproven.is_empty()
    }

    /// The chunks of a file of the tree.
    fn chunks_of(&self, blob: &Digest, size: u64) -> Result<Vec<ChunkRef>, AssemblyError> {
        let wrong = |what| AssemblyError::Blob { blob: *blob, what };
        let Some((list, _)) = self.lists.get(blob) else {
            let size = u32::try_from(size);
            let size = size.map_err(|_| wrong("it is too long for one chunk"))?;
            return Ok(match size {
                0 if *blob != Digest::of(&[]) => return Err(wrong("it has not the empty digest")),
                0 => Vec::new(),
                size => vec![ChunkRef { digest: *blob, size, patches: Vec::new() }],
            });
        };
        if list.size() != Some(size) {
            return Err(wrong("its chunks do not add up to it"));
        }
        Ok(list.chunks.clone())
    }

    /// The chunks that are not there for any of `holders`, each once. Once there are none, all of them
    /// stay until the tree is kept, and lists that are known already are believed: before, that they are
    /// known is nobody's business.
    pub fn missing(&mut self, holders: &[Holder]) -> Result<Vec<Digest>, AssemblyError> {
        let (mut seen, mut missing) = (HashSet::new(), Vec::new());
        for (blob, size) in self.tree.files() {
            for chunk in self.chunks_of(&blob, size)? {
                if !seen.insert(chunk.digest) {
                    continue;
                }
                match self.store.held(holders, &chunk.digest)? {
                    Some(found) if found.plain == chunk.size => {}
                    Some(_) => {
                        let what = "a chunk has not the length that is given for it";
                        return Err(AssemblyError::Blob { blob, what });
                    }
                    None => missing.push(chunk.digest),
                }
            }
        }
        if missing.is_empty() {
            missing = self.pardon(&seen)?;
        }
        if missing.is_empty() {
            for (blob, (list, _)) in &self.lists {
                match self.store.chunk_list(blob) {
                    Ok(known) if known.as_ref() == Some(list) => {
                        self.unproven.remove(blob);
                    }
                    Ok(_) => {}
                    // One that is damaged is replaced by this one.
                    Err(error) if error.cause() == Cause::Lost => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(missing)
    }

    /// Copies chunks out of packs that are condemned: a sweep does not wait for who began after that. Those
    /// that are gone in this very moment are returned.
    fn pardon(&self, chunks: &HashSet<Digest>) -> Result<Vec<Digest>, StoreError> {
        // What is in no condemned pack need not be looked up one by one.
        if self.store.packs().none_is_condemned() {
            return Ok(Vec::new());
        }
        let mut wrote = |pack| self.flight.wrote(pack);
        let (mut rescue, mut gone) = (Rescue::new(&self.store, &mut wrote), Vec::new());
        for chunk in chunks {
            match rescue.keep(Kind::Chunk, chunk) {
                Err(StoreError::Missing { .. }) => gone.push(*chunk),
                kept => kept?,
            }
        }
        rescue.finish()?;
        Ok(gone)
    }

    /// Gives the bytes of a file of the tree to `each`, and proves on the way that they are the
    /// blob's. Stops, and says so with false, when `each` wants no more.
    pub fn read_file(
        &mut self,
        blob: &Digest,
        size: u64,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<bool, AssemblyError> {
        let chunks = self.chunks_of(blob, size)?;
        let mut proof = self.unproven.contains(blob).then(|| BlobBuilder::new(size));
        for chunk in &chunks {
            self.plain.clear();
            // A blob of one chunk has that chunk's digest, and no chunk is stored unproven.
            self.reader.append_unhashed(chunk, &mut self.plain)?;
            if let Some(proof) = &mut proof {
                proof.write(&self.plain);
            }
            if !each(&self.plain) {
                return Ok(false);
            }
        }
        if let Some(proof) = proof {
            let found = proof.finish();
            let wrong = |what| Err(AssemblyError::Blob { blob: *blob, what });
            if found.digest != *blob {
                return wrong("its chunks make up another file");
            }
            if found.chunks.chunks != chunks {
                return wrong("it is not cut where this store cuts it: update the client");
            }
            self.unproven.remove(blob);
        }
        Ok(true)
    }

    /// Keeps the tree, every file of which has been read, and gives `holder` claims to its chunks.
    /// Durable with the next commit. Returns the tree's digest, and what keeps it until then.
    pub fn finish(self, holder: Holder) -> Result<(Digest, Arc<Flight>), AssemblyError> {
        if let Some(blob) = self.unproven.iter().next() {
            let what = "its bytes have not been read";
            return Err(AssemblyError::Blob { blob: *blob, what });
        }
        let failed = |error: io::Error| StoreError::Io(error);
        let (mut run, mut encoder) = (Run::default(), FrameEncoder::new().map_err(failed)?);
        let mut claims = Claims::of(holder);
        let mut named = Vec::new();
        let mut wrote = |pack| self.flight.wrote(pack);
        let mut rescue = Rescue::new(&self.store, &mut wrote);
        for (blob, size) in self.tree.files() {
            for chunk in self.chunks_of(&blob, size)? {
                claims.add(&self.store, &chunk.digest)?;
                rescue.keep(Kind::Chunk, &chunk.digest)?;
                named.push(chunk.digest);
            }
        }
        rescue.finish()?;
        for (blob, (_, encoded)) in &self.lists {
            run.add(&mut encoder, Kind::ChunkList, *blob, encoded).map_err(failed)?;
        }
        let tree = Digest::of(&self.encoded);
        run.add(&mut encoder, Kind::Tree, tree, &self.encoded).map_err(failed)?;
        claims.append_to(&mut run).map_err(failed)?;
        self.flight.wrote(self.store.append(&run).map_err(failed)?);
        self.store.published(holder, named.into_iter())?;
        Ok((tree, self.flight))
    }
}
