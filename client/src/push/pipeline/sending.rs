//! Sending chunks, and sending them again.

use std::collections::HashSet;

use castore::Digest;

use super::{Event, Fate, Pipeline};
use crate::http::RemoteCache;
use crate::push::PushError;
use crate::push::records::{Chunk, RECORD_OVERHEAD, Source, Unreadable, records};

/// Bodies of chunks under way: enough to keep a line of 100 ms busy while others are compressed.
const SENDS: usize = 4;
/// Plain bytes in one body of chunks. What is under way is held in memory, compressed.
const LOAD: usize = 8 * 1024 * 1024;
/// How often chunks of one path are sent again because the server has lost them.
const ROUNDS: u32 = 3;

/// Chunks that were sent together.
pub(super) struct Load {
    pub numbers: (u64, u64),
    /// Bytes of files, by the path they were sent for.
    pub advanced: Vec<(usize, u64)>,
    /// Chunks that were not sent.
    pub unreadable: Vec<Unreadable>,
    pub chunks: u64,
}

impl Pipeline<'_> {
    pub(super) fn start_sends(&mut self) {
        while self.sending < SENDS && !self.queue.is_empty() {
            let taken = self.queue.take(LOAD.min(self.options.part_size));
            let numbers = taken.numbers();
            let remote = self.remote.clone();
            self.sending += 1;
            self.running.push(Box::pin(async move {
                Event::Sent(send(&remote, taken.items, numbers).await)
            }));
        }
    }

    /// Paths whose chunks are at the server are ready.
    pub(super) fn wake(&mut self) {
        while let Some(&(end, at)) = self.waiting.first()
            && end <= self.queue.done()
        {
            self.waiting.pop_first();
            if self.fate[at] == Fate::Open {
                self.ready.insert(at);
            }
        }
    }

    /// The server misses chunks that it had, or that another path's trouble kept from being sent.
    pub(super) fn send_again(&mut self, at: usize, missing: &[Vec<u8>]) {
        let missing: HashSet<&[u8]> = missing.iter().map(Vec::as_slice).collect();
        let is_missing = |digest: &Digest| missing.contains(&digest.as_bytes()[..]);
        let Some(open) = self.open.get_mut(&at) else { return };
        open.rounds += 1;
        let pieces = open.prepared.pieces.iter().filter(|(digest, _)| is_missing(digest));
        let pieces = pieces.map(|(digest, bytes)| Source::Bytes(*digest, bytes.clone()));
        let files = open.chunks.iter().filter(|place| is_missing(&place.digest));
        let again: Vec<Source> =
            pieces.chain(files.map(|place| Source::File(place.clone()))).collect();
        if again.is_empty() || open.rounds > ROUNDS {
            self.fail(at, "the server goes on losing its chunks: see its log".to_owned());
            return;
        }
        for source in again {
            let chunk = Chunk { path: at, source };
            let size = chunk.size() + RECORD_OVERHEAD;
            self.queue.push(chunk, size);
        }
        self.waiting.insert((self.queue.end(), at));
    }
}

async fn send(
    remote: &RemoteCache,
    chunks: Vec<Chunk>,
    numbers: (u64, u64),
) -> Result<Load, PushError> {
    let (records, unreadable, chunks) = tokio::task::spawn_blocking(move || {
        let made = records(&chunks);
        made.map(|(records, unreadable)| (records, unreadable, chunks))
    })
    .await?
    .map_err(PushError::Compression)?;
    if !records.is_empty() {
        remote.send_chunks(records.into()).await?;
    }
    let advanced = chunks.iter().map(|chunk| (chunk.path, chunk.advance())).collect();
    Ok(Load { numbers, advanced, unreadable, chunks: chunks.len() as u64 })
}
