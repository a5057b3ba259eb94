//! Threads that hash and compress, shared by all uploads.
//!
//! An upload hands over batches of chunks and takes the results back in order, so both cores work
//! on a single upload while the bytes in flight stay bounded.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::Digest;
use crate::locations::Locations;
use crate::log::Run;
use crate::pack::{FrameEncoder, Kind};

/// One chunk to take in.
pub(crate) struct ChunkJob {
    /// Its digest, where that is known already.
    pub digest: Option<Digest>,
    /// Its plain bytes.
    pub plain: Bytes,
}

/// What became of a batch of chunks.
#[derive(Default)]
pub(crate) struct Encoded {
    /// Records for the chunks that were not stored yet, or not where they stay.
    pub run: Run,
    /// Digest and plain length of every chunk, in order.
    pub chunks: Vec<(Digest, u32)>,
}

struct Job {
    chunks: Vec<ChunkJob>,
    locations: Arc<Locations>,
    done: SyncSender<io::Result<Encoded>>,
}

/// The threads.
pub(crate) struct Workers {
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads; 0 for one per core.
    pub fn start(threads: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if threads == 0 { cores } else { threads };
        // Each upload waits for its own results, so a longer queue would only hold memory.
        let (queue, jobs) = sync_channel(count);
        let jobs = Arc::new(Mutex::new(jobs));
        let spawn = |at| {
            let jobs = jobs.clone();
            let name = format!("encode-{at}");
            std::thread::Builder::new().name(name).spawn(move || work(&jobs))
        };
        let threads = (0..count).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Hands over a batch. The result comes through the channel.
    pub fn submit(
        &self,
        chunks: Vec<ChunkJob>,
        locations: Arc<Locations>,
    ) -> io::Result<Receiver<io::Result<Encoded>>> {
        let (done, result) = sync_channel(1);
        let gone = || io::Error::other("the threads that compress have ended");
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(Job { chunks, locations, done }).map_err(|_| gone())?;
        Ok(result)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut encoder = None;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let result = match &mut encoder {
            Some(encoder) => encode(encoder, &job),
            none => FrameEncoder::new().and_then(|made| encode(none.insert(made), &job)),
        };
        // An upload that was given up does not listen any more.
        let _ = job.done.send(result);
    }
}

fn encode(encoder: &mut FrameEncoder, job: &Job) -> io::Result<Encoded> {
    let mut out = Encoded::default();
    let mut seen = HashMap::new();
    for chunk in &job.chunks {
        let plain = u32::try_from(chunk.plain.len()).map_err(io::Error::other)?;
        let digest = match chunk.digest {
            // Whoever hashed it has looked it up.
            Some(digest) => digest,
            None => {
                let digest = Digest::of(&chunk.plain);
                if job.locations.kept(&digest, Kind::Chunk)?.is_some() {
                    out.chunks.push((digest, plain));
                    continue;
                }
                digest
            }
        };
        out.chunks.push((digest, plain));
        if seen.insert(digest, ()).is_some() {
            continue;
        }
        out.run.add(encoder, Kind::Chunk, digest, &chunk.plain)?;
    }
    Ok(out)
}
