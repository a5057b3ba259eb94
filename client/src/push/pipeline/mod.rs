//! The pipeline: scan, ask, send, publish, all at the same time.
//!
//! One task owns the state of every path; what takes time runs beside it and comes back as an
//! event. Each stage takes whatever is ready when a slot of it is free, so that on a quick line
//! little waits, and on a slow one requests grow instead of becoming many.

mod asking;
mod publishing;
mod sending;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use castore::Digest;
use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use granary_api::push::PathOutcome;
use nix_compat::path_info::PathInfo;

use super::message::Prepared;
use super::queue::Queue;
use super::records::{Chunk, Source, Unreadable};
use super::scan::{ChunkPlace, Scanned, scan};
use super::supply::{Here, Supply};
use super::{MIN_PART_SIZE, Observer, Places, Plan, PushError, PushOptions, Step, Summary};
use crate::http::RemoteCache;
use publishing::References;
use sending::Load;

/// A path between its scan and its publication.
struct Open {
    prepared: Prepared,
    chunks: Vec<ChunkPlace>,
    weight: usize,
    rounds: u32,
}

impl Open {
    /// Where those of its chunks come from that are wanted: the manifest's pieces, then its files'.
    fn sources(&self, mut wanted: impl FnMut(&Digest) -> bool) -> Vec<Source> {
        let mut sources = Vec::new();
        for (digest, bytes) in &self.prepared.pieces {
            if wanted(digest) {
                sources.push(Source::Bytes(*digest, bytes.clone()));
            }
        }
        let places = self.chunks.iter().filter(|place| wanted(&place.digest));
        sources.extend(places.map(|place| Source::File(place.clone())));
        sources
    }
}

enum Event {
    Scanned(usize, Result<Result<Scanned, String>, tokio::task::JoinError>),
    Sent(Result<Load, PushError>),
    Published(Vec<usize>, Result<Vec<PathOutcome>, PushError>),
}

type Running<'a> = Pin<Box<dyn Future<Output = Event> + Send + 'a>>;
type Asked = (Vec<usize>, Vec<(usize, Source)>, Result<Bytes, PushError>);

struct Pipeline<'a> {
    remote: &'a RemoteCache,
    paths: &'a [PathInfo],
    supply: &'a dyn Supply,
    observer: Observer<'a>,
    options: PushOptions,
    running: FuturesUnordered<Running<'a>>,
    asks: FuturesOrdered<Pin<Box<dyn Future<Output = Asked> + Send>>>,
    /// The next path to scan, those being scanned, and those that wait for an earlier one.
    next: usize,
    scanning: usize,
    /// Paths whose files are here, or on their way.
    held: usize,
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
    push_from(remote, plan, &Here(places), options, observer).await
}

/// The same with files that have to be brought first, and are let go of once they are pushed. As
/// many are brought at the same time as otherwise are scanned.
pub async fn push_from(
    remote: &RemoteCache,
    plan: &Plan,
    supply: &dyn Supply,
    options: PushOptions,
    observer: Observer<'_>,
) -> Result<Summary, PushError> {
    let mut summary = Summary::default();
    push_into(remote, plan, supply, options, observer, &mut summary).await?;
    Ok(summary)
}

/// The same, for those who want to know what became of the paths even if the push ends early:
/// paths that `summary` does not tell of were neither published nor did they fail.
pub async fn push_into(
    remote: &RemoteCache,
    plan: &Plan,
    supply: &dyn Supply,
    options: PushOptions,
    observer: Observer<'_>,
    summary: &mut Summary,
) -> Result<(), PushError> {
    if options.part_size < MIN_PART_SIZE {
        return Err(PushError::PartSize);
    }
    let paths = &plan.to_push[..];
    let hash = |(at, info): (usize, &PathInfo)| (*info.store_path.hash().as_bytes(), at);
    let mut pipeline = Pipeline {
        remote,
        paths,
        supply,
        observer,
        options,
        running: FuturesUnordered::new(),
        asks: FuturesOrdered::new(),
        next: 0,
        scanning: 0,
        held: 0,
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
    let result = pipeline.run().await;
    pipeline.summary.read = pipeline.read.load(Ordering::Relaxed);
    *summary = pipeline.summary;
    result
}

/// About how much memory the places of chunks take, while they wait to be sent too.
fn weight(chunks: &[ChunkPlace]) -> usize {
    let each = size_of::<ChunkPlace>() + size_of::<(Chunk, usize)>();
    let files = chunks.chunk_by(|one, other| Arc::ptr_eq(&one.file, &other.file));
    let name = |of_file: &[ChunkPlace]| size_of::<PathBuf>() + of_file[0].file.as_os_str().len();
    chunks.len() * each + files.map(name).sum::<usize>()
}

impl Pipeline<'_> {
    async fn run(&mut self) -> Result<(), PushError> {
        loop {
            self.start();
            tokio::select! {
                Some(event) = self.running.next(), if !self.running.is_empty() => {
                    self.hear(event)?;
                }
                Some(asked) = self.asks.next(), if !self.asks.is_empty() => self.asked(asked)?,
                else => break,
            }
        }
        for at in 0..self.paths.len() {
            let why = "it was never begun, or never finished: this is a bug of granary, push again";
            self.fail(at, why.to_owned());
        }
        Ok(())
    }

    /// Starts whatever can run. What fails makes room for scans, and may keep back what is ready: so
    /// this goes on until nothing fails any more.
    fn start(&mut self) {
        loop {
            let failed = self.summary.failed.len();
            self.start_publications();
            self.start_scans();
            if self.summary.failed.len() == failed {
                break;
            }
        }
        self.start_ask();
        self.start_sends();
    }

    fn hear(&mut self, event: Event) -> Result<(), PushError> {
        match event {
            Event::Scanned(at, result) => {
                self.scanning -= 1;
                match result? {
                    Ok(scanned) => self.open(at, scanned),
                    Err(why) => self.fail(at, why),
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
                for Unreadable { path, why } in load.unreadable {
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
            && self.weight < self.options.memory
            && self.held < self.supply.room().max(1)
        {
            let (at, read) = (self.next, self.read.clone());
            self.next += 1;
            self.held += 1;
            if let References::Failed(name) = self.references(at, &[]) {
                self.fail_for(at, &name);
                self.take_scanned();
                continue;
            }
            self.scanning += 1;
            (self.observer)(at, Step::Started);
            let (supply, info) = (self.supply, &self.paths[at]);
            self.running.push(Box::pin(async move {
                let place = match supply.bring(info).await {
                    Ok(place) => place,
                    Err(why) => return Event::Scanned(at, Ok(Err(why))),
                };
                let scanned = tokio::task::spawn_blocking(move || {
                    let mut count = |bytes| {
                        read.fetch_add(bytes, Ordering::Relaxed);
                    };
                    scan(&place, &mut count).map_err(|error| error.to_string())
                });
                Event::Scanned(at, scanned.await)
            }));
        }
    }

    fn open(&mut self, at: usize, Scanned { tree, lists, chunks }: Scanned) {
        let prepared = Prepared::new(tree, lists);
        let weight = prepared.weight() + weight(&chunks);
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

    /// Nothing more will be read of the path: it is published, or has failed.
    fn close(&mut self, at: usize) {
        self.held -= 1;
        self.supply.release(&self.paths[at].store_path);
        if let Some(open) = self.open.remove(&at) {
            self.weight -= open.weight;
        }
    }

    fn fail_for(&mut self, at: usize, reference: &str) {
        self.fail(at, format!("{reference}, which it refers to, could not be pushed"));
    }

    fn fail(&mut self, at: usize, why: String) {
        if self.fate[at] != Fate::Open {
            return;
        }
        self.fate[at] = Fate::Failed;
        if at < self.next {
            self.close(at);
        }
        self.ready.remove(&at);
        (self.observer)(at, Step::Failed(why.clone()));
        self.summary.failed.push((self.paths[at].store_path.clone(), why));
    }
}
