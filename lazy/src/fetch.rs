//! Fetching chunks: each once, however many want it, in batches that are as large as what is wanted
//! while others are on their way.
//!
//! What somebody waits for goes first. What is only likely to be wanted (`ahead`) fills up the
//! batches of the former, and never takes all connections.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use castore::chunking::MAX_CHUNK;
use castore::{Digest, Kind};
use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::ViewError;
use crate::disk::DiskCache;
use crate::record;
use crate::source::{Source, SourceError};

/// Plain bytes of one question.
const BATCH: usize = 2 * 1024 * 1024;
/// Chunks of one question.
const BATCH_CHUNKS: usize = 1024;
/// Up to here, what is only likely to be wanted may come along with what is.
const FILL: usize = 256 * 1024;
/// Questions at once, and those for what nobody waits for.
const MAX_QUESTIONS: usize = 8;
const MAX_QUESTIONS_AHEAD: usize = 4;
/// How often a chunk is asked for that comes damaged, or not at all.
const ATTEMPTS: u32 = 3;
/// Chunks that wait to be fetched ahead; more are not taken on.
const MAX_AHEAD: usize = 16 * 1024;

/// For how long a chunk that could not be got is not asked for again. The kernel lets those who
/// want the same page in one by one: each of them would wait as long as the first.
const FAILED_FOR: Duration = Duration::from_secs(1);
const FAILURES: usize = 4096;

type Done = Result<Bytes, ViewError>;

pub(crate) struct Fetcher {
    source: Arc<Source>,
    source_name: String,
    disk: Option<Arc<DiskCache>>,
    /// Plain chunks that were used lately.
    memory: quick_cache::sync::Cache<Digest, Bytes, Weight>,
    queue: Mutex<Queue>,
    /// After how long whoever waits is told that it failed.
    patience: Duration,
    /// Doors ask from threads of their own.
    runtime: Handle,
    counts: Counts,
    failures: quick_cache::sync::Cache<Digest, (Instant, ViewError)>,
}

/// What a fetcher did so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub chunks: AtomicU64,
    /// As records, thus compressed.
    pub bytes: AtomicU64,
    pub questions: AtomicU64,
    pub damaged: AtomicU64,
    /// How long the quickest of the last questions took, in microseconds.
    pub round_trip: AtomicU64,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<Digest, Bytes> for Weight {
    fn weight(&self, _: &Digest, bytes: &Bytes) -> u64 {
        100 + bytes.len() as u64
    }
}

#[derive(Default)]
struct Queue {
    wanted: VecDeque<Digest>,
    ahead: VecDeque<Digest>,
    chunks: HashMap<Digest, Chunk>,
    questions: usize,
    questions_ahead: usize,
}

/// A chunk that is being got.
pub(crate) enum Getting {
    Here(Bytes),
    Coming(Coming),
    Failed(ViewError),
}

pub(crate) struct Coming {
    digest: Digest,
    size: u32,
    pending: Shared<oneshot::Receiver<Done>>,
    /// Whether it was on its way before.
    joined: bool,
}

/// A chunk that is to come.
struct Chunk {
    size: u32,
    wanted: bool,
    asked: bool,
    attempts: u32,
    done: Option<oneshot::Sender<Done>>,
    pending: Shared<oneshot::Receiver<Done>>,
}

impl Fetcher {
    pub fn new(
        source: Arc<Source>,
        disk: Option<Arc<DiskCache>>,
        memory: u64,
        patience: Duration,
        runtime: Handle,
    ) -> Arc<Self> {
        let items = (memory / 32_768) as usize;
        Arc::new(Self {
            source_name: source.name(),
            source,
            disk,
            memory: quick_cache::sync::Cache::with_weighter(items, memory, Weight),
            queue: Mutex::default(),
            patience,
            runtime,
            counts: Counts::default(),
            failures: quick_cache::sync::Cache::new(FAILURES),
        })
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The chunk, if it is on this machine. Blocks for the disk and to decode.
    pub fn here(&self, digest: &Digest) -> Option<Bytes> {
        if let Some(bytes) = self.memory.get(digest) {
            return Some(bytes);
        }
        let plain = Bytes::from(self.disk.as_ref()?.get(Kind::Chunk, digest)?);
        self.memory.insert(*digest, plain.clone());
        Some(plain)
    }

    /// Holds on to a chunk for now.
    pub fn remember(&self, digest: Digest, plain: Bytes) {
        self.memory.insert(digest, plain);
    }

    /// Whether the chunk seems to be on this machine, or on its way to it.
    pub fn is_coming(&self, digest: &Digest) -> bool {
        self.memory.peek(digest).is_some()
            || self.disk.as_ref().is_some_and(|disk| disk.has(Kind::Chunk, digest))
            || self.queue().chunks.contains_key(digest)
    }

    /// Whether the chunk seems to be on disk, and is not in memory.
    pub fn is_on_disk(&self, digest: &Digest) -> bool {
        self.memory.peek(digest).is_none()
            && self.disk.as_ref().is_some_and(|disk| disk.has(Kind::Chunk, digest))
    }

    /// Begins to get a chunk; [`Fetcher::ask`] goes on with it. Blocks for the disk.
    pub fn begin(&self, digest: Digest, size: u32) -> Getting {
        match self.here(&digest) {
            Some(bytes) => Getting::Here(bytes),
            None => match self.failures.get(&digest) {
                Some((since, error)) if since.elapsed() < FAILED_FOR => Getting::Failed(error),
                _ => self.want(digest, size, true),
            },
        }
    }

    /// The chunk that is being got.
    pub async fn finish(self: &Arc<Self>, getting: Getting) -> Done {
        let coming = match getting {
            Getting::Here(bytes) => return Ok(bytes),
            Getting::Failed(error) => return Err(error),
            Getting::Coming(coming) => coming,
        };
        let (digest, size) = (coming.digest, coming.size);
        let got = async {
            let first = coming.pending.await;
            if !coming.joined || matches!(first, Ok(Ok(_))) {
                return first;
            }
            // It was asked for long before, perhaps: whoever comes late has patience of their own.
            match self.want(digest, size, true) {
                Getting::Here(bytes) => Ok(Ok(bytes)),
                Getting::Failed(error) => Ok(Err(error)),
                Getting::Coming(coming) => {
                    self.ask();
                    coming.pending.await
                }
            }
        };
        let done = match tokio::time::timeout(self.patience, got).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(self.failed(&format!("chunk {digest}: the mount is ending"))),
            Err(_) => {
                let seconds = self.patience.as_secs();
                Err(self.failed(&format!("chunk {digest}: nothing came within {seconds} seconds")))
            }
        };
        if let Err(error) = &done {
            self.failures.insert(digest, (Instant::now(), error.clone()));
        }
        done
    }

    /// An error, which is in the log.
    pub fn failed(&self, why: &str) -> ViewError {
        let (source_name, why) = (self.source_name.clone(), why.to_owned());
        let error = ViewError::Unreachable { what: "contents".to_owned(), source_name, why };
        tracing::error!("{error}");
        error
    }

    /// These chunks are likely to be wanted soon, in this order.
    pub fn ahead(&self, chunks: impl IntoIterator<Item = (Digest, u32)>) {
        for (digest, size) in chunks {
            if self.queue().ahead.len() >= MAX_AHEAD {
                break;
            }
            if !self.is_coming(&digest) {
                drop(self.want(digest, size, false));
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, digest: Digest, size: u32, wanted: bool) -> Getting {
        let mut queue = self.queue();
        let Queue { wanted: first, ahead, chunks, .. } = &mut *queue;
        if let Some(chunk) = chunks.get_mut(&digest) {
            if wanted && !chunk.wanted && !chunk.asked {
                first.push_back(digest);
            }
            // Also one that is on its way: it may have to be asked for again.
            chunk.wanted |= wanted;
            let pending = chunk.pending.clone();
            return Getting::Coming(Coming { digest, size, pending, joined: true });
        }
        // It may have come since it was looked for.
        if let Some(bytes) = self.memory.get(&digest) {
            return Getting::Here(bytes);
        }
        let (done, pending) = oneshot::channel();
        let pending = pending.shared();
        let (done, attempts, asked) = (Some(done), 0, false);
        let chunk = Chunk { size, wanted, asked, attempts, done, pending: pending.clone() };
        chunks.insert(digest, chunk);
        if wanted {
            first.push_back(digest)
        } else {
            ahead.push_back(digest)
        }
        Getting::Coming(Coming { digest, size, pending, joined: false })
    }

    /// Asks for what waits, as far as questions are free.
    pub fn ask(self: &Arc<Self>) {
        while let Some((batch, ahead)) = self.queue().next_batch() {
            let fetcher = self.clone();
            self.runtime.spawn(async move {
                // A question that is lost would be waited for by all who come later.
                let fetching = AssertUnwindSafe(fetcher.fetch(&batch)).catch_unwind();
                if fetching.await.is_err() {
                    fetcher.fail(&batch, &SourceError("it could not be asked".to_owned()));
                }
                {
                    let mut queue = fetcher.queue();
                    queue.questions -= 1;
                    queue.questions_ahead -= usize::from(ahead);
                }
                fetcher.ask();
            });
        }
    }

    async fn fetch(self: &Arc<Self>, batch: &[Digest]) {
        let batch = self.look_beside(batch).await;
        if batch.is_empty() {
            return;
        }
        let begun = Instant::now();
        self.counts.questions.fetch_add(1, Ordering::Relaxed);
        let answer = match self.source.read_chunks(&batch).await {
            Ok(answer) => answer,
            Err(error) => return self.fail(&batch, &error),
        };
        self.measure(begun.elapsed());
        let (fetcher, asked) = (self.clone(), batch.clone());
        let taken = tokio::task::spawn_blocking(move || fetcher.take(&asked, &answer)).await;
        if taken.is_err() {
            self.fail(&batch, &SourceError("its answer could not be worked on".to_owned()));
        }
    }

    /// Takes what another mount has put on disk meanwhile; what is left.
    async fn look_beside(self: &Arc<Self>, batch: &[Digest]) -> Vec<Digest> {
        let Some(disk) = self.disk.clone().filter(|disk| disk.should_look()) else {
            return batch.to_vec();
        };
        let (fetcher, all) = (self.clone(), batch.to_vec());
        let look = move || {
            if let Err(error) = disk.look_again() {
                tracing::debug!(%error, "the cache could not be listed");
            }
            let missing = |digest: &Digest| {
                let Some(plain) = fetcher.here(digest) else { return true };
                fetcher.done(digest, Ok(plain));
                false
            };
            all.into_iter().filter(missing).collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| batch.to_vec())
    }

    fn measure(&self, took: Duration) {
        let (took, last) =
            (took.as_micros() as u64, self.counts.round_trip.load(Ordering::Relaxed));
        // What is quicker counts at once; what is slower, slowly: it may have been large.
        let next = if last == 0 || took < last { took } else { last + (took - last) / 16 };
        self.counts.round_trip.store(next, Ordering::Relaxed);
    }

    /// Works on an answer. Blocks.
    fn take(&self, asked: &[Digest], answer: &Bytes) {
        let mut open: HashSet<Digest> = asked.iter().copied().collect();
        let mut good = Vec::with_capacity(answer.len());
        let mut damaged = HashSet::new();
        for (header, bytes) in record::split(answer) {
            let digest = header.digest;
            let credible = header.kind == Kind::Chunk && header.plain <= MAX_CHUNK as u64;
            if !credible || !open.contains(&digest) {
                continue;
            }
            match record::decode(&header, &bytes[castore::pack::HEADER_LEN..]) {
                Ok(plain) => {
                    open.remove(&digest);
                    good.extend_from_slice(&bytes);
                    self.counts.chunks.fetch_add(1, Ordering::Relaxed);
                    let plain = Bytes::from(plain);
                    self.memory.insert(digest, plain.clone());
                    self.done(&digest, Ok(plain));
                }
                Err(_) => drop(damaged.insert(digest)),
            }
        }
        self.counts.bytes.fetch_add(answer.len() as u64, Ordering::Relaxed);
        if let Some(disk) = &self.disk {
            disk.put(&good);
        }
        for digest in open {
            if damaged.contains(&digest) {
                self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                let from = &self.source_name;
                tracing::warn!(%digest, from, "a chunk came damaged, and is asked for again");
            }
            // No answer is so long that the server would have cut it off.
            self.again(digest);
        }
    }

    /// Asks for a chunk again, unless that has been done often enough.
    fn again(&self, digest: Digest) {
        let mut queue = self.queue();
        let Queue { wanted, ahead, chunks, .. } = &mut *queue;
        let Some(chunk) = chunks.get_mut(&digest) else { return };
        chunk.attempts += 1;
        if chunk.attempts < ATTEMPTS {
            chunk.asked = false;
            if chunk.wanted {
                wanted.push_back(digest)
            } else {
                ahead.push_back(digest)
            }
            return;
        }
        drop(queue);
        let error = ViewError::Unreachable {
            what: format!("chunk {digest}"),
            source_name: self.source_name.clone(),
            why: format!("{ATTEMPTS} times it did not come, or came damaged"),
        };
        tracing::error!("{error}");
        self.done(&digest, Err(error));
    }

    fn fail(&self, batch: &[Digest], error: &SourceError) {
        let from = &self.source_name;
        tracing::error!(chunks = batch.len(), from, "chunks could not be read: {error}");
        for digest in batch {
            let error = ViewError::Unreachable {
                what: format!("chunk {digest}"),
                source_name: self.source_name.clone(),
                why: error.to_string(),
            };
            self.done(digest, Err(error));
        }
    }

    fn done(&self, digest: &Digest, done: Done) {
        let chunk = self.queue().chunks.remove(digest);
        if let Some(sender) = chunk.and_then(|mut chunk| chunk.done.take()) {
            // Nobody waits for what came ahead.
            let _ = sender.send(done);
        }
    }
}

impl Queue {
    /// The chunks of the next question, and whether nobody waits for any of them.
    fn next_batch(&mut self) -> Option<(Vec<Digest>, bool)> {
        if self.questions >= MAX_QUESTIONS {
            return None;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        take(&mut self.wanted, &mut self.chunks, &mut batch, &mut bytes, BATCH);
        let is_ahead = batch.is_empty();
        if is_ahead && self.questions_ahead >= MAX_QUESTIONS_AHEAD {
            return None;
        }
        let limit = if is_ahead { BATCH } else { FILL };
        take(&mut self.ahead, &mut self.chunks, &mut batch, &mut bytes, limit);
        if batch.is_empty() {
            return None;
        }
        self.questions += 1;
        self.questions_ahead += usize::from(is_ahead);
        Some((batch, is_ahead))
    }
}

fn take(
    from: &mut VecDeque<Digest>,
    chunks: &mut HashMap<Digest, Chunk>,
    batch: &mut Vec<Digest>,
    bytes: &mut usize,
    limit: usize,
) {
    while *bytes < limit && batch.len() < BATCH_CHUNKS {
        let Some(digest) = from.pop_front() else { return };
        // It may have come, or have been asked for, from the other queue.
        let Some(chunk) = chunks.get_mut(&digest).filter(|chunk| !chunk.asked) else { continue };
        chunk.asked = true;
        *bytes += chunk.size as usize;
        batch.push(digest);
    }
}
