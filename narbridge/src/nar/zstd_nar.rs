//! The NAR as zstd: stored frames as they lie in the packs, framing between them in frames of its
//! own. Nothing is compressed or decompressed but long framing.
//!
//! The bytes are a function of the tree and of the stored frames, so a range of them means the same
//! at every request as long as the chunks are not stored anew.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use castore::bytes::Wait;
use castore::tree::{ChunkRef, Tree};
use castore::{Digest, Kind, Location, Store, StoreError};

use super::buffers::{self, Buffer};
use super::{ByteRange, NarBody, NarError, TryWindow, WINDOW, Walk};
use crate::compression::zstd_frame::{raw_frame, raw_frame_len};

/// Framing of at least this many bytes is compressed. It is what trees of symlinks consist of.
const COMPRESS_FRAMING: usize = 1024;
const FRAMING_LEVEL: i32 = 1;
/// A window is full at this size: what was read is still in the core's own cache when it is sent.
const AIM: usize = 256 * 1024;

/// Where packs are far away, so much of what comes next is asked for ahead, in stored bytes, and each
/// time that so much of it has gone out.
const AHEAD: u64 = 48 * 1024 * 1024;
const AHEAD_STEP: u64 = 4 * 1024 * 1024;

/// One piece of the output.
enum Piece {
    /// The next so many bytes of the plan's framing.
    Framing(u32),
    /// A stored frame.
    Stored(Digest, Location),
    /// A chunk with patches: it has to be decoded, and goes out raw.
    Patched(ChunkRef),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Framing(len) => *len as usize,
            Piece::Stored(_, location) => location.stored as usize,
            Piece::Patched(chunk) => raw_frame_len(chunk.size as usize),
        }
    }
}

/// What a NAR is put together from. Best as long as its chunks stay where they are; what has moved is
/// found when it is read.
pub struct ZstdPlan {
    pieces: Vec<Piece>,
    /// Frames of framing, one behind the other.
    framing: Vec<u8>,
    len: u64,
    /// See [`Store::moves`].
    moves: u64,
    /// What was known to be damaged when chunks were looked up, see [`Store::damage_changes`].
    damage: u64,
}

impl ZstdPlan {
    /// Plans the NAR of `tree`. Every chunk is looked up, so it is certain to be there.
    pub fn new(store: &Store, tree: &Tree) -> Result<Self, NarError> {
        let (moves, damage) = (store.moves(), store.damage_changes());
        let mut plan = Self { pieces: Vec::new(), framing: Vec::new(), len: 0, moves, damage };
        let mut walk = Walk::new(tree);
        let mut framing = Vec::new();
        loop {
            framing.clear();
            let file = walk.next_file(&mut framing)?;
            let before = plan.framing.len();
            append_frame(&framing, &mut plan.framing)?;
            let length = u32::try_from(plan.framing.len() - before).map_err(io::Error::other)?;
            plan.add(Piece::Framing(length));
            let Some(file) = file else { break };
            for chunk in store.chunks_of(tree, &file.digest, file.size)? {
                let digest = chunk.digest;
                let location = store.find(Kind::Chunk, &digest)?;
                plan.add(if chunk.patches.is_empty() {
                    Piece::Stored(digest, location)
                } else {
                    Piece::Patched(chunk)
                });
            }
        }
        plan.pieces.shrink_to_fit();
        plan.framing.shrink_to_fit();
        Ok(plan)
    }

    fn add(&mut self, piece: Piece) {
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Length of the NAR as zstd.
    pub fn total_len(&self) -> u64 {
        self.len
    }

    /// Whether the chunks still lie where the plan says.
    pub fn is_current(&self, store: &Store) -> bool {
        (self.moves, self.damage) == (store.moves(), store.damage_changes())
    }

    /// What the plan takes in memory, in bytes.
    pub fn weight(&self) -> u64 {
        (size_of::<Self>() + self.pieces.len() * size_of::<Piece>() + self.framing.len()) as u64
    }
}

/// Appends a frame that holds framing.
fn append_frame(framing: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    if framing.len() >= COMPRESS_FRAMING {
        out.extend_from_slice(&zstd::bulk::compress(framing, FRAMING_LEVEL)?);
    } else {
        out.reserve(raw_frame_len(framing.len()));
        raw_frame(framing, out);
    }
    Ok(())
}

/// A NAR as zstd frames, or a range of it.
pub struct ZstdNar {
    store: Arc<Store>,
    plan: Arc<ZstdPlan>,
    /// The piece whose turn it is, where it starts in the output, and how much of the framing has
    /// gone before it.
    next: usize,
    position: u64,
    framing_at: usize,
    range: ByteRange,
    /// Where in the output it is time to ask for what comes next; `None` where packs are at hand.
    ahead: Option<u64>,
}

impl ZstdNar {
    /// The NAR that is planned, limited to `range`.
    pub fn new(store: Arc<Store>, plan: Arc<ZstdPlan>, range: ByteRange) -> Self {
        let ahead = store.is_far().then_some(range.start);
        let mut nar = Self { store, plan, next: 0, position: 0, framing_at: 0, range, ahead };
        while let Some(piece) = nar.plan.pieces.get(nar.next)
            && nar.position + piece.len() as u64 <= nar.range.start
        {
            nar.skip(1);
        }
        nar
    }

    /// Reads pieces into `out`, which has just the room for them.
    fn read(&self, count: usize, out: &mut [u8], wait: Wait) -> Result<(), NarError> {
        let mut framing_at = self.framing_at;
        let pieces = &self.plan.pieces[self.next..self.next + count];
        let mut records = Vec::with_capacity(count);
        let mut buffers = Vec::with_capacity(count);
        let mut rest = out;
        for piece in pieces {
            let (place, later) = rest.split_at_mut(piece.len());
            rest = later;
            match piece {
                Piece::Framing(len) => {
                    let end = framing_at + *len as usize;
                    place.copy_from_slice(&self.plan.framing[framing_at..end]);
                    framing_at = end;
                }
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
        Ok(self.store.read_stored(&records, buffers, wait)?)
    }

    /// How many pieces make up the next window, and how long they are.
    fn next_pieces(&self) -> (usize, usize) {
        let (mut count, mut size) = (0, 0);
        for piece in &self.plan.pieces[self.next..] {
            let ended = self.position + size as u64 >= self.range.end;
            // A window never grows beyond a buffer, so that buffers can be used again.
            let full = size >= AIM || (count > 0 && size + piece.len() > WINDOW);
            if ended || full {
                break;
            }
            count += 1;
            size += piece.len();
        }
        (count, size)
    }

    /// Asks for what comes next.
    fn look_ahead(&mut self) {
        if self.ahead.is_none_or(|ahead| self.position < ahead) {
            return;
        }
        self.ahead = Some(self.position + AHEAD_STEP);
        let end = self.range.end.min(self.position + AHEAD);
        let (mut position, mut records) = (self.position, Vec::new());
        for piece in &self.plan.pieces[self.next..] {
            if position >= end {
                break;
            }
            position += piece.len() as u64;
            if let Piece::Stored(digest, location) = piece {
                records.push((*digest, *location));
            }
        }
        self.store.will_read(&records);
    }

    fn window(&mut self, wait: Wait) -> Result<Option<Bytes>, NarError> {
        self.look_ahead();
        let (count, size) = self.next_pieces();
        if count == 0 {
            return Ok(None);
        }
        let mut buffer = Buffer::take(size);
        self.read(count, buffer.as_mut(), wait)?;
        let start = self.position;
        self.skip(count);
        let from = self.range.start.saturating_sub(start).min(size as u64) as usize;
        let to = self.range.end.saturating_sub(start).min(size as u64) as usize;
        Ok((from < to).then(|| buffers::freeze(buffer).slice(from..to)))
    }

    fn skip(&mut self, count: usize) {
        for piece in &self.plan.pieces[self.next..self.next + count] {
            if let Piece::Framing(len) = piece {
                self.framing_at += *len as usize;
            }
            self.position += piece.len() as u64;
        }
        self.next += count;
    }
}

impl NarBody for ZstdNar {
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        self.window(Wait::Yes)
    }

    fn try_next_window(&mut self) -> Result<TryWindow, NarError> {
        match self.window(Wait::No) {
            Ok(window) => Ok(TryWindow::Window(window)),
            Err(NarError::Store(StoreError::Io(error)))
                if error.kind() == io::ErrorKind::WouldBlock =>
            {
                Ok(TryWindow::WouldBlock)
            }
            Err(error) => Err(error),
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.plan.pieces.len() || self.position >= self.range.end
    }
}
