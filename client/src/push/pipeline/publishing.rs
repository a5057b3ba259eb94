//! Publishing paths, each after those it refers to.

use granary_api::push::{MAX_PATHS_AT_ONCE, Outcome, PathOutcome};

use super::{Event, Fate, Pipeline};
use crate::http::RemoteCache;
use crate::push::message::outcomes;
use crate::push::{PushError, Step};

/// Publications under way. A server verifies each on one core.
const PUBLISHES: usize = 2;
/// Encoded messages in one publication, in bytes.
const MESSAGES: usize = 2 * 1024 * 1024;
/// NAR bytes in one publication: a server reads all of them before it answers for the last.
const PUBLISH_NARS: u64 = 256 * 1024 * 1024;
/// A publication beside another one has at least so many bytes of NARs: each costs the server a write,
/// and what comes meanwhile can share the next.
const LEAST_BESIDE: u64 = 64 * 1024 * 1024;
/// zstd's level for messages, which are names and digests.
const MESSAGE_LEVEL: i32 = 3;

pub(super) enum References {
    There,
    Wait,
    Failed(String),
}

impl Pipeline<'_> {
    pub(super) fn start_publications(&mut self) {
        while self.publishing < PUBLISHES && !self.ready.is_empty() {
            let (mut batch, mut messages, mut nars) = (Vec::new(), Vec::new(), 0u64);
            let limit = MESSAGES.min(self.options.part_size);
            for at in self.ready.clone() {
                match self.references(at, &batch) {
                    References::Wait => continue,
                    References::Failed(name) => {
                        self.fail_for(at, &name);
                        continue;
                    }
                    References::There => {}
                }
                let (info, Some(open)) = (&self.paths[at], self.open.get(&at)) else { continue };
                let full = messages.len() + open.prepared.message_len(info) > limit
                    || nars + info.nar_size > PUBLISH_NARS
                    || batch.len() == MAX_PATHS_AT_ONCE;
                if full && !batch.is_empty() {
                    break;
                }
                open.prepared.append(info, &mut messages);
                nars += info.nar_size;
                batch.push(at);
            }
            if batch.is_empty() || (self.publishing > 0 && nars < LEAST_BESIDE) {
                return;
            }
            for at in &batch {
                self.ready.remove(at);
            }
            let remote = self.remote.clone();
            self.publishing += 1;
            self.running.push(Box::pin(async move {
                let outcomes = publish(&remote, messages).await;
                Event::Published(batch, outcomes)
            }));
        }
    }

    /// Whether what the path refers to is published, or will be before it in the same batch.
    pub(super) fn references(&self, at: usize, batch: &[usize]) -> References {
        for reference in &self.paths[at].references {
            // Those that are not being pushed are there, or come from upstream. Those that come
            // later refer back to this one.
            let Some(&other) = self.by_hash.get(reference.hash().as_bytes()) else { continue };
            match self.fate[other] {
                _ if other >= at => {}
                Fate::Published => {}
                Fate::Failed => return References::Failed(reference.to_string()),
                Fate::Open if batch.contains(&other) => {}
                Fate::Open => return References::Wait,
            }
        }
        References::There
    }

    pub(super) fn published(
        &mut self,
        batch: Vec<usize>,
        outcomes: Vec<PathOutcome>,
    ) -> Result<(), PushError> {
        if outcomes.len() != batch.len() {
            return Err(PushError::Protocol("it does not tell what became of every path"));
        }
        for (at, outcome) in batch.into_iter().zip(outcomes) {
            match outcome.outcome() {
                Outcome::Published => {
                    self.fate[at] = Fate::Published;
                    self.close(at);
                    self.summary.published += 1;
                    self.summary.published_paths.insert(self.paths[at].store_path.clone());
                    (self.observer)(at, Step::Published);
                }
                Outcome::Missing => self.send_again(at, &outcome.missing),
                // It has to wait for one that was before it.
                Outcome::Deferred => {
                    self.ready.insert(at);
                }
                Outcome::Failed => self.fail(at, failed_there(outcome.message)),
                _ => self.fail(at, outcome.message),
            }
        }
        Ok(())
    }
}

/// What the server says, if it says anything: the cause is in its log.
fn failed_there(message: String) -> String {
    match message.is_empty() {
        true => "the server failed on it, and its log says why: push again later".to_owned(),
        false => message,
    }
}

async fn publish(remote: &RemoteCache, messages: Vec<u8>) -> Result<Vec<PathOutcome>, PushError> {
    let body =
        tokio::task::spawn_blocking(move || zstd::stream::encode_all(&messages[..], MESSAGE_LEVEL))
            .await?
            .map_err(PushError::Compression)?;
    outcomes(remote.publish(body.into()).await?)
}
