//! Chunks by their digests, as records of packs: what lazy readers fetch.
//!
//! Only chunks to which the cache has a claim are there, whoever else has them. Every path that is
//! visible in a cache has its chunks claimed, whatever door it came through.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use castore::bytes::Wait;
use castore::pack::{HEADER_LEN, RecordHeader};
use castore::{Digest, Kind, Location, Store, StoreError};
use granary_api::sync::MAX_CHUNKS_ANSWER;

use super::Cache;
use crate::nar::buffers::{self, Buffer};
use crate::nar::{NarBody, NarError, TryWindow, WINDOW};

/// A window is full at this size.
const AIM: usize = 256 * 1024;

/// Records of chunks one behind the other, ready to be read.
pub struct ChunkRecords {
    store: Arc<Store>,
    records: Vec<(Digest, Location)>,
    /// The record whose turn it is.
    next: usize,
    len: u64,
}

impl Cache {
    /// The records of these chunks as they lie in packs, in this order. Chunks that the cache does
    /// not hold are left out, and so is what comes after [`MAX_CHUNKS_ANSWER`] bytes, but the first.
    pub fn chunk_records(&self, digests: &[Digest]) -> Result<ChunkRecords, StoreError> {
        let holders = [self.holder()];
        let (mut records, mut len) = (Vec::new(), 0);
        for (digest, found) in digests.iter().zip(self.store.held_all(&holders, digests)?) {
            let Some(location) = found else { continue };
            len += record_len(&location) as u64;
            if len > MAX_CHUNKS_ANSWER as u64 && !records.is_empty() {
                len -= record_len(&location) as u64;
                break;
            }
            records.push((*digest, location));
        }
        Ok(ChunkRecords { store: self.store.clone(), records, next: 0, len })
    }
}

fn record_len(location: &Location) -> usize {
    HEADER_LEN + location.stored as usize
}

impl ChunkRecords {
    /// Length of all of them in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All of them at once.
    pub fn read_all(self) -> Result<Bytes, StoreError> {
        let mut out = vec![0; usize::try_from(self.len).map_err(io::Error::other)?];
        read(&self.store, &self.records, &mut out, Wait::Yes)?;
        Ok(out.into())
    }

    fn window(&mut self, wait: Wait) -> Result<Option<Bytes>, StoreError> {
        let (mut count, mut size) = (0, 0);
        for (_, location) in &self.records[self.next..] {
            let length = record_len(location);
            // A window never grows beyond a buffer, so that buffers can be used again.
            if size >= AIM || (count > 0 && size + length > WINDOW) {
                break;
            }
            count += 1;
            size += length;
        }
        if count == 0 {
            return Ok(None);
        }
        let mut buffer = Buffer::take(size);
        let records = &self.records[self.next..self.next + count];
        read(&self.store, records, buffer.as_mut(), wait)?;
        self.next += count;
        Ok(Some(buffers::freeze(buffer)))
    }
}

/// Reads records into `out`, which has just the room for them. Neighbours are read together; what
/// is read is checked against its header, so the header can be written anew instead of read.
fn read(
    store: &Store,
    records: &[(Digest, Location)],
    out: &mut [u8],
    wait: Wait,
) -> Result<(), StoreError> {
    let (mut rest, mut heads, mut frames) = (out, Vec::new(), Vec::new());
    for (_, location) in records {
        let (head, later) = rest.split_at_mut(HEADER_LEN);
        let (frame, later) = later.split_at_mut(location.stored as usize);
        heads.push(head);
        frames.push(frame);
        rest = later;
    }
    let buffers = frames.iter_mut().map(|frame| &mut **frame).collect();
    store.read_stored(records, buffers, wait)?;
    for (((digest, location), head), frames) in records.iter().zip(heads).zip(frames) {
        let header = RecordHeader::seal(Kind::Chunk, *digest, location.plain.into(), frames);
        let header = header.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        head.copy_from_slice(&header.to_bytes());
    }
    Ok(())
}

impl NarBody for ChunkRecords {
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        Ok(self.window(Wait::Yes)?)
    }

    fn try_next_window(&mut self) -> Result<TryWindow, NarError> {
        match self.window(Wait::No) {
            Ok(window) => Ok(TryWindow::Window(window)),
            Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(TryWindow::WouldBlock)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.records.len()
    }
}
