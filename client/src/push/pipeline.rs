//! The pipeline: scan, ask, send, publish, all at the same time.
//!
//! One task owns the state of every path; what takes time runs beside it and comes back as an
//! event. Each stage takes whatever is ready when a slot of it is free, so that on a quick line
//! little waits, and on a slow one requests grow instead of becoming many.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use castore::Digest;
use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use granary_api::push::{Outcome, PathOutcome};
use nix_compat::path_info::PathInfo;

use super::message::{Prepared, outcomes};
use super::queue::Queue;
use super::scan::{ChunkPlace, ScanError, Scanned, scan};
use super::send::{Chunk, RECORD_OVERHEAD, SendTrouble, Source, records};
use super::{MIN_PART_SIZE, Observer, Places, Plan, PushError, PushOptions, Step, Summary};
use crate::http::RemoteCache;

/// Questions under way. The second is put together while the first travels.
const ASKS: usize = 2;
/// Bodies of chunks under way: enough to keep a line of 100 ms busy while others are compressed.
const SENDS: usize = 4;
/// Publications under way. A server verifies each on one core.
const PUBLISHES: usize = 2;
/// Digests in one question, 2 MiB.
const ASK_DIGESTS: usize = 64 * 1024;
/// Plain bytes in one body of chunks. What is under way is held in memory, compressed.
const LOAD: usize = 8 * 1024 * 1024;
/// Encoded messages in one publication, in bytes.
const MESSAGES: usize = 2 * 1024 * 1024;
/// NAR bytes in one publication: a server reads all of them before it answers for the last.
const PUBLISH_NARS: u64 = 256 * 1024 * 1024;
/// What scanned paths may hold in memory before scanning waits, in bytes.
const SCANNED: usize = 64 * 1024 * 1024;
/// How often chunks of one path are sent again because the server has lost them.
const ROUNDS: u32 = 3;
/// zstd's level for messages, which are names and digests.
const MESSAGE_LEVEL: i32 = 3;

/// A path between its scan and its publication.
struct Open {
    prepared: Prepared,
    chunks: Vec<ChunkPlace>,
    weight: usize,
    rounds: u32,
}

enum Event {
    Scanned(usize, Result<Result<Scanned, ScanError>, tokio::task::JoinError>),
    Sent(Result<Load, PushError>),
    Published(Vec<usize>, Result<Vec<PathOutcome>, PushError>),
}

struct Load {
    numbers: (u64, u64),
    advanced: Vec<(usize, u64)>,
    trouble: Vec<SendTrouble>,
    chunks: u64,
}

type Running = Pin<Box<dyn Future<Output = Event> + Send>>;
type Asked = (Vec<usize>, Vec<(usize, Source)>, Result<Bytes, PushError>);

struct Pipeline<'a> {
    remote: &'a RemoteCache,
    paths: &'a [PathInfo],
    places: Places<'a>,
    observer: Observer<'a>,
    options: PushOptions,
    running: FuturesUnordered<Running>,
    asks: FuturesOrdered<Pin<Box<dyn Future<Output = Asked> + Send>>>,
    /// The next path to scan, those being scanned, and those that wait for an earlier one.
    next: usize,
    scanning: usize,
    scanned: BTreeSet<usize>,
    /// Up to here all paths have been asked about, or have failed.
    taken: usize,
    weight: usize,
    to_ask: Vec<usize>,
    /// Chunks that were asked about, or are being sent. Eight bytes of each digest: a chunk that is
    /// left out by mistake is asked for again by the server.
    asked: HashSet<u64>,
    queue: Queue<Chunk>,
    sending: usize,
    open: HashMap<usize, Open>,
    /// Paths that wait until everything below a number of the queue is sent.
    waiting: BTreeSet<(u64, usize)>,
    ready: BTreeSet<usize>,
    publishing: usize,
    by_hash: HashMap<[u8; 20], usize>,
    fate: Vec<Fate>,
    summary: Summary,
    read: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Published,
    Failed,
}

/// Pushes the paths of a plan. `places` says where their files are. Paths that cannot be pushed are
/// in the summary, with those that refer to them; the others are pushed all the same.
pub async fn push(
    remote: &RemoteCache,
    plan: &Plan,
    places: Places<'_>,
    options: PushOptions,
    observer: Observer<'_>,
) -> Result<Summary, PushError> {
    if options.part_size < MIN_PART_SIZE {
        return Err(PushError::PartSize);
    }
    let paths = &plan.to_push[..];
    let hash = |(at, info): (usize, &PathInfo)| (*info.store_path.hash().as_bytes(), at);
    let mut pipeline = Pipeline {
        remote,
        paths,
        places,
        observer,
        options,
        running: FuturesUnordered::new(),
        asks: FuturesOrdered::new(),
        next: 0,
        scanning: 0,
        scanned: BTreeSet::new(),
        taken: 0,
        weight: 0,
        to_ask: Vec::new(),
        asked: HashSet::new(),
        queue: Queue::default(),
        sending: 0,
        open: HashMap::new(),
        waiting: BTreeSet::new(),
        ready: BTreeSet::new(),
        publishing: 0,
        by_hash: paths.iter().enumerate().map(hash).collect(),
        fate: vec![Fate::Open; paths.len()],
        summary: Summary::default(),
        read: Arc::default(),
    };
    pipeline.run().await?;
    pipeline.summary.read = pipeline.read.load(Ordering::Relaxed);
    Ok(pipeline.summary)
}

impl Pipeline<'_> {
    async fn run(&mut self) -> Result<(), PushError> {
        loop {
            self.start_scans();
            self.start_ask();
            self.start_sends();
            self.start_publications();
            tokio::select! {
                Some(event) = self.running.next(), if !self.running.is_empty() => {
                    self.hear(event)?;
                }
                Some(asked) = self.asks.next(), if !self.asks.is_empty() => self.asked(asked)?,
                else => return Ok(()),
            }
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), PushError> {
        match event {
            Event::Scanned(at, result) => {
                self.scanning -= 1;
                match result? {
                    Ok(scanned) => self.open(at, scanned),
                    Err(error) => self.fail(at, error.to_string()),
                }
                self.take_scanned();
            }
            Event::Sent(load) => {
                self.sending -= 1;
                let load = load?;
                self.summary.chunks += load.chunks;
                self.queue.acknowledge(load.numbers);
                for (at, bytes) in load.advanced {
                    (self.observer)(at, Step::Advanced(bytes));
                }
                for SendTrouble { path, why } in load.trouble {
                    self.fail(path, why);
                }
                self.wake();
            }
            Event::Published(batch, outcomes) => {
                self.publishing -= 1;
                self.published(batch, outcomes?)?;
            }
        }
        Ok(())
    }

    fn start_scans(&mut self) {
        while self.scanning < self.options.jobs.max(1)
            && self.next < self.paths.len()
            && self.weight < SCANNED
        {
            let (at, read) = (self.next, self.read.clone());
            let place = (self.places)(&self.paths[at].store_path);
            self.next += 1;
            self.scanning += 1;
            (self.observer)(at, Step::Started);
            let scanned = tokio::task::spawn_blocking(move || {
                scan(&place, &mut |bytes| {
                    read.fetch_add(bytes, Ordering::Relaxed);
                })
            });
            self.running.push(Box::pin(async move { Event::Scanned(at, scanned.await) }));
        }
    }

    fn open(&mut self, at: usize, Scanned { tree, lists, chunks }: Scanned) {
        let prepared = Prepared::new(tree, lists);
        let weight = prepared.weight() + chunks.len() * size_of::<ChunkPlace>();
        self.weight += weight;
        self.open.insert(at, Open { prepared, chunks, weight, rounds: 0 });
        self.scanned.insert(at);
    }

    /// Takes what was scanned in the order of the plan, so that publications can follow it.
    fn take_scanned(&mut self) {
        while self.taken < self.paths.len() {
            if self.scanned.remove(&self.taken) {
                self.to_ask.push(self.taken);
            } else if self.fate[self.taken] == Fate::Open {
                return;
            }
            self.taken += 1;
        }
    }

    fn start_ask(&mut self) {
        while self.asks.len() < ASKS && !self.to_ask.is_empty() {
            let (mut batch, mut questions) = (Vec::new(), Vec::new());
            let mut left = self.to_ask.drain(..).collect::<Vec<_>>().into_iter();
            let limit = ASK_DIGESTS.min(self.options.part_size / Digest::LEN);
            for at in left.by_ref() {
                let Some(open) = self.open.get(&at) else { continue };
                let mut all = open
                    .prepared
                    .pieces
                    .iter()
                    .map(|(digest, bytes)| (*digest, Source::Bytes(*digest, bytes.clone())))
                    .chain(
                        open.chunks.iter().map(|place| (place.digest, Source::File(place.clone()))),
                    )
                    .collect::<Vec<_>>();
                all.retain(|(digest, _)| self.asked.insert(digest.prefix()));
                questions.extend(all.into_iter().map(|(_, source)| (at, source)));
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
    fn asked(&mut self, (batch, questions, answer): Asked) -> Result<(), PushError> {
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

    fn start_sends(&mut self) {
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
    fn wake(&mut self) {
        while let Some(&(end, at)) = self.waiting.first()
            && end <= self.queue.done()
        {
            self.waiting.pop_first();
            if self.fate[at] == Fate::Open {
                self.ready.insert(at);
            }
        }
    }

    fn start_publications(&mut self) {
        while self.publishing < PUBLISHES && !self.ready.is_empty() {
            let (mut batch, mut messages, mut nars) = (Vec::new(), Vec::new(), 0u64);
            let limit = MESSAGES.min(self.options.part_size);
            for at in self.ready.clone() {
                match self.references(at, &batch) {
                    References::Wait => continue,
                    References::Failed(name) => {
                        self.fail(at, format!("{name}, which it refers to, could not be pushed"));
                        continue;
                    }
                    References::There => {}
                }
                let (info, Some(open)) = (&self.paths[at], self.open.get(&at)) else { continue };
                let full = messages.len() + open.prepared.message_len(info) > limit
                    || nars + info.nar_size > PUBLISH_NARS;
                if full && !batch.is_empty() {
                    break;
                }
                open.prepared.append(info, &mut messages);
                nars += info.nar_size;
                batch.push(at);
            }
            if batch.is_empty() {
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
    fn references(&self, at: usize, batch: &[usize]) -> References {
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

    fn published(
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
                    (self.observer)(at, Step::Published);
                }
                Outcome::Missing => self.send_again(at, &outcome.missing),
                // It has to wait for one that was before it.
                Outcome::Deferred => {
                    self.ready.insert(at);
                }
                _ => self.fail(at, outcome.message),
            }
        }
        Ok(())
    }

    /// The server misses chunks that it had, or that another path's trouble kept from being sent.
    fn send_again(&mut self, at: usize, missing: &[Vec<u8>]) {
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

    fn close(&mut self, at: usize) {
        if let Some(open) = self.open.remove(&at) {
            self.weight -= open.weight;
        }
    }

    fn fail(&mut self, at: usize, why: String) {
        if self.fate[at] != Fate::Open {
            return;
        }
        self.fate[at] = Fate::Failed;
        self.close(at);
        self.ready.remove(&at);
        (self.observer)(at, Step::Failed(why.clone()));
        self.summary.failed.push((self.paths[at].store_path.clone(), why));
    }
}

enum References {
    There,
    Wait,
    Failed(String),
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

async fn send(
    remote: &RemoteCache,
    chunks: Vec<Chunk>,
    numbers: (u64, u64),
) -> Result<Load, PushError> {
    let (records, trouble, chunks) = tokio::task::spawn_blocking(move || {
        let made = records(&chunks);
        made.map(|(records, trouble)| (records, trouble, chunks))
    })
    .await?
    .map_err(PushError::Compression)?;
    if !records.is_empty() {
        remote.send_chunks(records.into()).await?;
    }
    let advanced = chunks.iter().map(|chunk| (chunk.path, chunk.advance())).collect();
    Ok(Load { numbers, advanced, trouble, chunks: chunks.len() as u64 })
}

async fn publish(remote: &RemoteCache, messages: Vec<u8>) -> Result<Vec<PathOutcome>, PushError> {
    let body =
        tokio::task::spawn_blocking(move || zstd::stream::encode_all(&messages[..], MESSAGE_LEVEL))
            .await?
            .map_err(PushError::Compression)?;
    outcomes(remote.publish(body.into()).await?)
}
