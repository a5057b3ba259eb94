//! Sending chunks, and sending them again.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use castore::Digest;

use super::{Event, Fate, Pipeline};
use crate::http::{self, RemoteCache};
use crate::push::PushError;
use crate::push::records::{Chunk, RECORD_OVERHEAD, Unreadable, records};

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
        let again = open.sources(is_missing);
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

/// Sends chunks. When the server refuses the body, which it does for one bad record and without
/// saying whose, each path's chunks are sent apart, and only those that are refused alone fail.
async fn send(
    remote: &RemoteCache,
    chunks: Vec<Chunk>,
    numbers: (u64, u64),
) -> Result<Load, PushError> {
    let chunks: Arc<[Chunk]> = chunks.into();
    let mut unreadable = Vec::new();
    let refused = send_some(remote, &chunks, 0..chunks.len(), &mut unreadable).await?;
    if refused.is_some() {
        unreadable.clear();
        let mut from = 0;
        for of_path in chunks.chunk_by(|one, other| one.path == other.path) {
            let (path, range) = (of_path[0].path, from..from + of_path.len());
            from = range.end;
            if let Some(why) = send_some(remote, &chunks, range, &mut unreadable).await? {
                let why = format!("the server refuses its chunks: {why}");
                unreadable.push(Unreadable { path, why });
            }
        }
    }
    let advanced = chunks.iter().map(|chunk| (chunk.path, chunk.advance())).collect();
    Ok(Load { numbers, advanced, unreadable, chunks: chunks.len() as u64 })
}

/// Sends some of them in one body; answers why it was refused.
async fn send_some(
    remote: &RemoteCache,
    chunks: &Arc<[Chunk]>,
    range: Range<usize>,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Option<String>, PushError> {
    let chunks = chunks.clone();
    let made = tokio::task::spawn_blocking(move || records(&chunks[range]));
    let (records, left_out) = made.await?.map_err(PushError::Compression)?;
    unreadable.extend(left_out);
    if records.is_empty() {
        return Ok(None);
    }
    match remote.send_chunks(records.into()).await {
        Ok(_) => Ok(None),
        Err(http::Error::Rejected { code: 400, message, .. }) => Ok(Some(message)),
        Err(error) => Err(error.into()),
    }
}
