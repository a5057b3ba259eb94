//! The NAR itself, from any offset. Every chunk is checked against its digest.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use castore::store::Reader;
use castore::tree::{ChunkRef, Tree};
use castore::{Store, StoreError};

use super::{ByteRange, NarBody, NarError, WINDOW, Walk};

/// A plain NAR, or a range of it.
pub struct PlainNar {
    store: Arc<Store>,
    reader: Reader,
    pieces: Pieces,
    /// Where the next piece starts.
    position: u64,
    range: ByteRange,
}

/// What is left of the NAR: framing and chunks in turn.
struct Pieces {
    tree: Arc<Tree>,
    /// Framing still to come, then the file whose turn it is. A walk borrows its tree, so the
    /// framing of a whole tree is made at once; it weighs what the tree does, not what files do.
    steps: VecDeque<Step>,
    chunks: VecDeque<ChunkRef>,
}

enum Step {
    Framing(Bytes),
    File(super::FileAt),
}

impl PlainNar {
    /// The NAR of `tree`, limited to `range`.
    pub fn new(store: Arc<Store>, tree: Arc<Tree>, range: ByteRange) -> Result<Self, NarError> {
        let mut steps = VecDeque::new();
        let mut walk = Walk::new(&tree);
        loop {
            let mut framing = Vec::new();
            let file = walk.next_file(&mut framing)?;
            steps.push_back(Step::Framing(framing.into()));
            match file {
                Some(file) => steps.push_back(Step::File(file)),
                None => break,
            }
        }
        let reader = store.reader()?;
        let pieces = Pieces { tree, steps, chunks: VecDeque::new() };
        Ok(Self { store, reader, pieces, position: 0, range })
    }

    /// Appends `piece`, or the part of it that lies in the range.
    fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let end = self.position + piece.len() as u64;
        let from = self.range.start.clamp(self.position, end) - self.position;
        let to = self.range.end.clamp(self.position, end) - self.position;
        out.extend_from_slice(&piece[from as usize..to as usize]);
        self.position = end;
    }
}

impl NarBody for PlainNar {
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        let mut out = Vec::with_capacity(WINDOW);
        let mut plain = Vec::new();
        while out.len() + castore::chunking::MAX_CHUNK <= WINDOW && self.position < self.range.end {
            if let Some(chunk) = self.pieces.chunks.pop_front() {
                if self.position + u64::from(chunk.size) <= self.range.start {
                    self.position += u64::from(chunk.size);
                    continue;
                }
                plain.clear();
                self.reader.append_chunk(&chunk, &mut plain)?;
                self.take(&plain, &mut out);
                continue;
            }
            match self.pieces.steps.pop_front() {
                Some(Step::Framing(framing)) => self.take(&framing, &mut out),
                Some(Step::File(file)) if self.position + file.size <= self.range.start => {
                    self.position += file.size;
                }
                Some(Step::File(file)) => {
                    let tree = &self.pieces.tree;
                    let chunks = self.store.chunks_of(tree, &file.digest, file.size)?;
                    self.store.will_read_chunks(&chunks)?;
                    self.pieces.chunks = chunks.into();
                }
                None => {
                    let what = "the tree's NAR is shorter than its path info says".to_owned();
                    let io = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
                    return Err(StoreError::Io(io).into());
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    fn is_done(&self) -> bool {
        self.position >= self.range.end
    }
}
