//! Copying a store to another place, pack by pack.
//!
//! Packs never change and their names are random, so a pack of the same name and length is the same
//! pack, and copying goes on where it was cut off. Every pack is verified on its way. Until all are
//! there the target says of itself that it is unfinished, and no store opens it: with only some packs
//! it would look like a store that never had the rest.
//!
//! Two stores cannot become one. Each numbers its transactions from 1, and whoever remakes the index
//! would apply them by these numbers, as if one store had written them all. So a target that holds
//! what the source does not have is refused.

mod memory;
mod unsealed;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::bytes::{Listed, PackBackend, ReadPack};
use crate::fsck::{Checker, Depth, Problem, Subject, measure, open};
use crate::pack::PackId;
use crate::store::StoreError;
use memory::PackInMemory;

/// The note that a target carries until it is complete. It holds where the packs come from.
const UNFINISHED: &str = "copying";
/// Bytes that are read at once.
const WINDOW: u64 = 4 * 1024 * 1024;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Packs that are copied.
    pub packs: u64,
    /// Packs that are to be copied.
    pub packs_total: u64,
    /// Bytes of packs that are copied.
    pub bytes: u64,
    /// Bytes of packs that are to be copied.
    pub bytes_total: u64,
}

/// What a copy came to.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Packs that were copied.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were there already.
    pub present: u64,
    /// Packs among the copied that were unsealed at the source.
    pub sealed: u64,
    /// Bytes of interrupted writes at the ends of unsealed packs, which are not copied. They were
    /// never acknowledged.
    pub torn: u64,
    /// What is wrong with packs of the source. Such packs are not copied, and the target stays
    /// unfinished.
    pub problems: Vec<Problem>,
}

/// Why a store could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The target is another store.
    #[error(
        "the target holds {packs} packs that the source does not have, such as {first}: two stores \
         cannot be merged, because each numbers its changes from 1 and one's would be taken for the \
         other's; copy to an empty place"
    )]
    OtherStore {
        /// How many.
        packs: usize,
        /// One of them.
        first: PackId,
    },
    /// A pack is not the same in both places.
    #[error(
        "pack {pack} has {source_len} bytes at the source and {target_len} at the target, and packs \
         never change: one of them was damaged; copy to an empty place"
    )]
    Differs {
        /// Which pack.
        pack: PackId,
        /// Its length at the source, in bytes.
        source_len: u64,
        /// Its length at the target, in bytes.
        target_len: u64,
    },
    /// The source is itself the target of a copy, or one of the places failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pack could not be read or written.
    #[error("{what} pack {pack}: {source}")]
    Pack {
        /// What was tried.
        what: &'static str,
        /// On which pack.
        pack: PackId,
        /// What the system said.
        source: io::Error,
    },
    /// A place failed.
    #[error("{what}: {source}")]
    Place {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Refuses a place to which packs are still to be copied.
pub fn refuse_unfinished(backend: &dyn PackBackend) -> Result<(), StoreError> {
    match backend.note(UNFINISHED)? {
        Some(from) if !from.trim().is_empty() => {
            Err(StoreError::UnfinishedCopy { from: from.trim().to_owned() })
        }
        _ => Ok(()),
    }
}

/// A pack to copy.
struct Job {
    listed: Listed,
    /// How it is called at the target.
    id: PackId,
    /// Its bytes at the source, as far as they are to be copied.
    len: u64,
}

fn place(what: &'static str) -> impl FnOnce(io::Error) -> CopyError {
    move |source| CopyError::Place { what, source }
}

fn failed(what: &'static str, pack: PackId) -> impl FnOnce(io::Error) -> CopyError {
    move |source| CopyError::Pack { what, pack, source }
}

/// Copies the packs that `target` lacks. Nobody may write to either place meanwhile. `name` is what
/// the source is called, for whoever finds the target unfinished.
pub fn copy_packs(
    source: &dyn PackBackend,
    target: &dyn PackBackend,
    name: &str,
    progress: &mut dyn FnMut(CopyProgress),
) -> Result<CopyReport, CopyError> {
    refuse_unfinished(source)?;
    let mut report = CopyReport::default();
    let jobs = plan(source, target, &mut report)?;
    let unfinished = refuse_unfinished(target).is_err();
    if jobs.is_empty() && report.problems.is_empty() && !unfinished {
        return Ok(report);
    }
    let note = |text: &str| target.set_note(UNFINISHED, text);
    note(name).map_err(place("cannot write to the target"))?;
    let mut news = CopyProgress {
        packs_total: jobs.len() as u64,
        bytes_total: jobs.iter().map(|job| job.len).sum(),
        ..CopyProgress::default()
    };
    progress(news);
    let checker = Checker::new(Depth::Checksums, 0).map_err(place("cannot start threads"));
    let mut checker = checker?;
    for job in &jobs {
        let before = news.bytes;
        let mut read = |bytes| {
            news.bytes += bytes;
            progress(news);
        };
        if let Some(pack) = fetch(source, job, &mut checker, &mut read)? {
            report.packs += 1;
            report.sealed += u64::from(!job.listed.sealed);
            report.bytes += pack.len() as u64;
            store(target, job.id, pack)?;
        }
        news.packs += 1;
        news.bytes = before + job.len;
        progress(news);
    }
    report.problems.append(&mut checker.problems);
    if report.problems.is_empty() {
        note("").map_err(place("cannot write to the target"))?;
    }
    Ok(report)
}

/// What is to be copied, once it is clear that the target may have it.
fn plan(
    source: &dyn PackBackend,
    target: &dyn PackBackend,
    report: &mut CopyReport,
) -> Result<Vec<Job>, CopyError> {
    let there = measure(target).map_err(place("cannot list the packs of the target"))?;
    let mut there: HashMap<PackId, (Listed, u64)> =
        there.into_iter().map(|(listed, len)| (listed.id, (listed, len))).collect();
    let packs = measure(source).map_err(place("cannot list the packs of the source"))?;
    let mut jobs = Vec::new();
    for (listed, len) in &packs {
        let (listed, mut job) = (*listed, Job { listed: *listed, id: listed.id, len: *len });
        if !listed.sealed {
            let found = unsealed::find(source, &listed, *len);
            let Some((id, end)) = found.map_err(failed("cannot read", listed.id))? else {
                continue; // It never held anything.
            };
            report.torn += len - end;
            job = Job { listed, id, len: end };
        }
        match there.remove(&job.id) {
            None => jobs.push(job),
            // With its footer the copy of an unsealed pack is longer.
            Some((found, target_len)) if found.sealed && (!listed.sealed || target_len == *len) => {
                report.present += 1;
            }
            Some((_, target_len)) => {
                let (pack, source_len) = (job.id, *len);
                return Err(CopyError::Differs { pack, source_len, target_len });
            }
        }
    }
    // What is left are copies of packs that were unsealed then, or another store's packs.
    let mut foreign = Vec::new();
    for (id, (listed, len)) in there {
        let end = unsealed::end_of_copy(target, &listed, len);
        let end = end.map_err(failed("cannot read", id))?;
        let ours = |end| packs.iter().any(|(from, _)| unsealed::copy_name(from.id, end) == id);
        if !end.is_some_and(ours) {
            foreign.push(id);
        }
    }
    match foreign.iter().min() {
        Some(first) => Err(CopyError::OtherStore { packs: foreign.len(), first: *first }),
        None => Ok(jobs),
    }
}

/// Reads a pack and verifies it. `None`: it is damaged, and the checker has the problems.
fn fetch(
    source: &dyn PackBackend,
    job: &Job,
    checker: &mut Checker,
    read: &mut dyn FnMut(u64),
) -> Result<Option<Vec<u8>>, CopyError> {
    let id = job.listed.id;
    let opened = open(source, &job.listed).map_err(failed("cannot open", id))?;
    let gone = || failed("cannot open", id)(io::ErrorKind::NotFound.into());
    let subject = opened.ok_or_else(gone)?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < job.len {
        let at = bytes.len() as u64;
        let next = WINDOW.min(job.len - at);
        bytes.resize((at + next) as usize, 0);
        let window = subject.pack.read_at(at, &mut bytes[at as usize..]);
        window.map_err(failed("cannot read", id))?;
        read(next);
    }
    if !job.listed.sealed {
        bytes = unsealed::seal(id, job.id, bytes).map_err(failed("cannot seal", id))?;
    }
    let pack = Arc::new(PackInMemory(bytes));
    let (before, len) = (checker.problems.len(), pack.0.len() as u64);
    let reader: Arc<dyn ReadPack> = pack.clone();
    let subject = Subject { id: job.id, pack: reader, len, sealed: true, cut: false };
    let checked = checker.check(&subject, &mut |_| Ok(()));
    checked.map_err(failed("cannot verify", id))?;
    drop(subject);
    if checker.problems.len() > before {
        return Ok(None);
    }
    // The threads that verified it may hold it for a moment longer.
    Ok(Some(Arc::try_unwrap(pack).map_or_else(|shared| shared.0.clone(), |pack| pack.0)))
}

/// Writes a pack, and asks the target whether it has all of it.
fn store(target: &dyn PackBackend, id: PackId, pack: Vec<u8>) -> Result<(), CopyError> {
    let len = pack.len() as u64;
    target.put(id, pack).map_err(failed("cannot write", id))?;
    match target.stat(id).map_err(failed("cannot find the written", id))? {
        Some(found) if found == len => Ok(()),
        found => {
            let found = found.unwrap_or(0);
            let short = format!("{found} of its {len} bytes are there after it was written");
            Err(failed("cannot write", id)(io::Error::other(short)))
        }
    }
}
