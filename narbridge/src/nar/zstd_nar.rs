//! The NAR as zstd: stored frames as they lie in the packs, framing between them in frames of its
//! own. Nothing is compressed or decompressed but long framing.
//!
//! The bytes are a function of the tree and of the stored frames, so a range of them means the same
//! at every request as long as the chunks are not stored anew.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use castore::tree::{ChunkRef, Tree};
use castore::{Digest, Kind, Location, Store, StoreError};

use super::{ByteRange, NarBody, NarError, WINDOW, Walk};
use crate::compression::zstd_frame::{raw_frame, raw_frame_len};

/// Framing of at least this many bytes is compressed. It is what trees of symlinks consist of.
const COMPRESS_FRAMING: usize = 1024;
const FRAMING_LEVEL: i32 = 1;

/// One piece of the output.
enum Piece {
    /// A frame of framing.
    Framing(Bytes),
    /// A stored frame.
    Stored(Digest, Location),
    /// A chunk with patches: it has to be decoded, and goes out raw.
    Patched(ChunkRef),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Framing(frame) => frame.len(),
            Piece::Stored(_, location) => location.stored as usize,
            Piece::Patched(chunk) => raw_frame_len(chunk.size as usize),
        }
    }
}

/// A NAR as zstd frames, or a range of it.
pub struct ZstdNar {
    store: Arc<Store>,
    pieces: VecDeque<Piece>,
    len: u64,
    /// Where the next piece starts.
    position: u64,
    range: ByteRange,
}

impl ZstdNar {
    /// The NAR of `tree`. Every chunk is looked up, so it is certain to be there.
    pub fn new(store: Arc<Store>, tree: &Tree) -> Result<Self, NarError> {
        let mut pieces = VecDeque::new();
        let mut walk = Walk::new(tree);
        let mut framing = Vec::new();
        let mut len = 0;
        let mut add = |piece: Piece| {
            len += piece.len() as u64;
            pieces.push_back(piece);
        };
        loop {
            framing.clear();
            let file = walk.next_file(&mut framing)?;
            add(Piece::Framing(frame(&framing)?));
            let Some(file) = file else { break };
            for chunk in store.chunks_of(tree, &file.digest, file.size)? {
                let (kind, digest) = (Kind::Chunk, chunk.digest);
                let location = store.locate(kind, &digest)?;
                let location = location.ok_or(StoreError::Missing { kind, digest })?;
                add(if chunk.patches.is_empty() {
                    Piece::Stored(digest, location)
                } else {
                    Piece::Patched(chunk)
                });
            }
        }
        Ok(Self { store, pieces, len, position: 0, range: 0..len })
    }

    /// Limits the output to a range.
    pub fn limit(&mut self, range: ByteRange) {
        self.range = range;
        while let Some(piece) = self.pieces.front() {
            let end = self.position + piece.len() as u64;
            if end > self.range.start {
                break;
            }
            self.position = end;
            self.pieces.pop_front();
        }
    }

    /// Length of the whole representation.
    pub fn total_len(&self) -> u64 {
        self.len
    }
}

/// A frame of framing.
fn frame(framing: &[u8]) -> io::Result<Bytes> {
    let mut out = Vec::new();
    if framing.len() >= COMPRESS_FRAMING {
        out = zstd::bulk::compress(framing, FRAMING_LEVEL)?;
    } else {
        out.reserve_exact(raw_frame_len(framing.len()));
        raw_frame(framing, &mut out);
    }
    Ok(out.into())
}

impl NarBody for ZstdNar {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        let (mut count, mut size) = (0, 0);
        for piece in &self.pieces {
            if size >= WINDOW || self.position + size as u64 >= self.range.end {
                break;
            }
            count += 1;
            size += piece.len();
        }
        if count == 0 {
            return Ok(None);
        }
        let pieces: Vec<Piece> = self.pieces.drain(..count).collect();
        let mut out = vec![0; size];
        let (mut records, mut buffers) = (Vec::new(), Vec::new());
        let mut rest = &mut out[..];
        for piece in &pieces {
            let (place, later) = rest.split_at_mut(piece.len());
            rest = later;
            match piece {
                Piece::Framing(frame) => place.copy_from_slice(frame),
                Piece::Stored(digest, location) => {
                    records.push((*digest, *location));
                    buffers.push(place);
                }
                Piece::Patched(chunk) => {
                    let (mut plain, mut framed) = (Vec::new(), Vec::new());
                    self.store.reader()?.append_chunk(chunk, &mut plain)?;
                    raw_frame(&plain, &mut framed);
                    place.copy_from_slice(&framed);
                }
            }
        }
        self.store.read_stored(&records, buffers)?;
        let start = self.position;
        self.position += size as u64;
        let from = self.range.start.saturating_sub(start).min(size as u64) as usize;
        let to = self.range.end.saturating_sub(start).min(size as u64) as usize;
        Ok((from < to).then(|| Bytes::from(out).slice(from..to)))
    }
}
