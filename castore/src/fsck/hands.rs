//! Threads that verify what one thread reads.
//!
//! Packs are read from front to back in windows; each window is verified as one batch. The queue
//! holds a batch per thread, so that memory is bounded however fast the disk is.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::verify::Verifier;
use super::{Depth, Flaw};
use crate::bytes::ReadPack;
use crate::facts::Sequences;
use crate::pack::{HEADER_LEN, PackId, Row};

/// Records that lie together.
pub(super) struct Batch {
    pub id: PackId,
    pub pack: Arc<dyn ReadPack>,
    /// Where `bytes` start in the pack.
    pub at: u64,
    pub bytes: Vec<u8>,
    pub rows: Vec<Row>,
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Verified {
    pub records: u64,
    pub damaged: Vec<(PackId, Row, Flaw)>,
    /// Sequence numbers of the facts in it.
    pub sequences: Vec<Sequences>,
}

/// The threads.
pub(super) struct Hands {
    queue: Option<SyncSender<Batch>>,
    results: Receiver<io::Result<Verified>>,
    under_way: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Hands {
    /// Starts the threads; 0 for one per core.
    pub fn start(threads: usize, depth: Depth) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if threads == 0 { cores } else { threads };
        let (queue, batches) = sync_channel(count);
        let batches = Arc::new(Mutex::new(batches));
        let (done, results) = channel();
        let spawn = |at| {
            let (batches, done) = (batches.clone(), done.clone());
            let name = format!("verify-{at}");
            std::thread::Builder::new().name(name).spawn(move || work(&batches, &done, depth))
        };
        let threads = (0..count).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { queue: Some(queue), results, under_way: 0, threads })
    }

    /// Hands a batch over, once there is room.
    pub fn submit(&mut self, batch: Batch) -> io::Result<()> {
        let sent = self.queue.as_ref().map(|queue| queue.send(batch));
        if !matches!(sent, Some(Ok(()))) {
            return Err(gone());
        }
        self.under_way += 1;
        Ok(())
    }

    /// A result, if one is there; waits for it where `wait` says so. `None` when there is nothing
    /// to wait for.
    pub fn result(&mut self, wait: bool) -> io::Result<Option<Verified>> {
        if self.under_way == 0 {
            return Ok(None);
        }
        let result = if wait {
            self.results.recv().map_err(|_| gone())?
        } else {
            match self.results.try_recv() {
                Ok(result) => result,
                Err(_) => return Ok(None),
            }
        };
        self.under_way -= 1;
        result.map(Some)
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the threads that verify have ended")
}

fn work(batches: &Mutex<Receiver<Batch>>, done: &Sender<io::Result<Verified>>, depth: Depth) {
    let mut verifier = None;
    loop {
        let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return };
        let result = match &mut verifier {
            Some(verifier) => Ok(verify(verifier, &batch, depth)),
            none => Verifier::new().map(|made| verify(none.insert(made), &batch, depth)),
        };
        // A check that was given up does not listen any more.
        let _ = done.send(result);
    }
}

fn verify(verifier: &mut Verifier, batch: &Batch, depth: Depth) -> Verified {
    let mut out = Verified::default();
    for row in &batch.rows {
        let len = HEADER_LEN + row.stored as usize;
        let start = row.offset.saturating_sub(batch.at) as usize;
        let bytes = batch.bytes.get(start..).unwrap_or_default();
        let record = &bytes[..bytes.len().min(len)];
        out.records += 1;
        match verifier
            .verify(row, record, depth)
            .or_else(|flaw| again(verifier, batch, row, depth, flaw))
        {
            Ok(sequence) => out.sequences.extend(sequence),
            Err(flaw) => out.damaged.push((batch.id, *row, flaw)),
        }
    }
    out
}

/// Reads a record that was bad once more: a cache in between may have rotted, and not the pack.
fn again(
    verifier: &mut Verifier,
    batch: &Batch,
    row: &Row,
    depth: Depth,
    flaw: Flaw,
) -> Result<Vec<Sequences>, Flaw> {
    let mut record = vec![0; HEADER_LEN + row.stored as usize];
    batch.pack.distrust(row.offset..row.offset + record.len() as u64);
    match batch.pack.read_at(row.offset, &mut record) {
        Ok(()) => verifier.verify(row, &record, depth),
        Err(_) => Err(flaw),
    }
}
