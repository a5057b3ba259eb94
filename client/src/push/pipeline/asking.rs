//! Asking which chunks are missing.

use std::collections::HashMap;

use bytes::Bytes;
use castore::Digest;

use super::{Asked, Pipeline};
use crate::http::RemoteCache;
use crate::push::records::{Chunk, RECORD_OVERHEAD, Source};
use crate::push::{PushError, Step};

/// Questions under way. The second is put together while the first travels.
const ASKS: usize = 2;
/// Digests in one question, 2 MiB.
const ASK_DIGESTS: usize = 64 * 1024;

impl Pipeline<'_> {
    pub(super) fn start_ask(&mut self) {
        while self.asks.len() < ASKS && !self.to_ask.is_empty() {
            let (mut batch, mut questions) = (Vec::new(), Vec::new());
            let mut left = self.to_ask.drain(..).collect::<Vec<_>>().into_iter();
            let limit = ASK_DIGESTS.min(self.options.part_size / Digest::LEN);
            for at in left.by_ref() {
                let Some(open) = self.open.get(&at) else { continue };
                let asked = &mut self.asked;
                let new = open.sources(|digest| asked.insert(digest.prefix()));
                questions.extend(new.into_iter().map(|source| (at, source)));
                batch.push(at);
                if questions.len() >= limit {
                    break;
                }
            }
            self.to_ask = left.collect();
            let remote = self.remote.clone();
            self.asks.push_back(Box::pin(async move {
                let answer = ask(&remote, &questions, limit).await;
                (batch, questions, answer)
            }));
        }
    }

    /// The answer to a question: chunks that are missing are queued.
    pub(super) fn asked(&mut self, (batch, questions, answer): Asked) -> Result<(), PushError> {
        let bitmap = answer?;
        let mut there: HashMap<usize, u64> =
            batch.iter().map(|&at| (at, self.paths[at].nar_size)).collect();
        for (number, (path, source)) in questions.into_iter().enumerate() {
            let byte = bitmap.get(number / 8).copied();
            let byte = byte.ok_or(PushError::Protocol("a bitmap is too short"))?;
            if byte >> (number % 8) & 1 == 0 {
                continue;
            }
            let chunk = Chunk { path, source };
            if let Some(there) = there.get_mut(&path) {
                *there = there.saturating_sub(chunk.advance());
            }
            let size = chunk.size() + RECORD_OVERHEAD;
            self.queue.push(chunk, size);
        }
        for at in batch {
            (self.observer)(at, Step::Advanced(there.get(&at).copied().unwrap_or_default()));
            self.waiting.insert((self.queue.end(), at));
        }
        self.wake();
        Ok(())
    }
}

/// Asks which chunks are missing, in as many requests as `limit` wants.
async fn ask(
    remote: &RemoteCache,
    questions: &[(usize, Source)],
    limit: usize,
) -> Result<Bytes, PushError> {
    // A multiple of eight, so that bitmaps can be put one behind the other.
    let limit = (limit / 8).max(1) * 8;
    let mut bitmap = Vec::new();
    for page in questions.chunks(limit) {
        let mut digests = Vec::with_capacity(page.len() * Digest::LEN);
        for (_, source) in page {
            digests.extend_from_slice(source.digest().as_bytes());
        }
        let answer = remote.missing_chunks(digests.into()).await?;
        if answer.len() != page.len().div_ceil(8) {
            return Err(PushError::Protocol("a bitmap has another length"));
        }
        bitmap.extend_from_slice(&answer);
    }
    Ok(bitmap.into())
}
