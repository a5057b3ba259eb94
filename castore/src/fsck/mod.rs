//! Checking a store: packs against themselves, and the index against the packs.
//!
//! Nothing is changed, and the check does not stop at what it finds: problems are gathered, and only
//! a store that cannot be reached is an error. [`check_packs`] needs no index and no open store, for
//! one that does not open is what one wants to check most.

mod hands;
mod located;
mod pack;
mod problem;
mod scrub;
mod verify;

use std::collections::{HashMap, HashSet};
use std::io;

pub use problem::{Flaw, FooterFlaw, Problem};
pub use scrub::{ScrubProgress, Scrubbed};

use crate::Digest;
use crate::bytes::{Durability, Listed, PackBackend};
use crate::locations::Location;
use crate::pack::{Kind, PackId};
use crate::store::{Store, StoreError};
pub(crate) use pack::{Checker, Subject, last_sequence};

/// How much of a pack is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Its two ends.
    Footers,
    /// All of it, and every record's checksum is made again.
    Checksums,
    /// All of it, and every record is decoded and held against its digest.
    Contents,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress {
    /// Packs that are checked.
    pub packs: u64,
    /// Packs in all.
    pub packs_total: u64,
    /// Bytes of packs that are checked.
    pub bytes: u64,
    /// Bytes of packs in all.
    pub bytes_total: u64,
}

/// How to check packs.
pub struct CheckOptions<'a> {
    /// How much to read.
    pub depth: Depth,
    /// Threads that decode and hash; 0 for one per core.
    pub threads: usize,
    /// Told how far it has come.
    pub progress: &'a mut dyn FnMut(CheckProgress),
}

/// The records that a check found damaged, by where they lie.
#[derive(Debug, Default)]
pub struct Damage(HashMap<(PackId, u64), (Kind, Digest)>);

impl Damage {
    fn add(&mut self, pack: PackId, offset: u64, kind: Kind, digest: Digest) {
        self.0.insert((pack, offset), (kind, digest));
    }

    /// Each record: its pack, where it lies there, and what it should hold.
    pub(crate) fn records(&self) -> impl Iterator<Item = (PackId, u64, Kind, Digest)> {
        self.0.iter().map(|((pack, offset), (kind, digest))| (*pack, *offset, *kind, *digest))
    }

    /// The packs they lie in.
    pub(crate) fn packs(&self) -> HashSet<PackId> {
        self.0.keys().map(|(pack, _)| *pack).collect()
    }

    /// Whether nothing is damaged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many records are damaged.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the record that the store would read there is among them.
    pub fn hits(&self, store: &Store, location: &Location) -> bool {
        !self.is_empty()
            && store
                .packs()
                .id_of(location.pack)
                .is_ok_and(|pack| self.0.contains_key(&(pack, location.offset)))
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Packs that were checked.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their records.
    pub records: u64,
    /// Packs that no index knows, and that nothing refers to.
    pub strays: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// The records among it.
    pub damage: Damage,
}

/// Checks the packs in a place by themselves.
pub fn check_packs(
    backend: &dyn PackBackend,
    options: CheckOptions<'_>,
) -> Result<CheckReport, StoreError> {
    check(backend, None, options)
}

impl Store {
    /// Checks the packs, and whether the index finds what is in them.
    pub fn check(&self, options: CheckOptions<'_>) -> Result<CheckReport, StoreError> {
        check(&**self.packs().backend(), Some(self), options)
    }
}

/// The packs in a place with their lengths in bytes. Asks each pack where listing does not tell.
pub fn measure(backend: &dyn PackBackend) -> io::Result<Vec<(Listed, u64)>> {
    let mut measured = Vec::new();
    for listed in backend.list()? {
        let len = match listed.len {
            Some(len) => len,
            None => match open(backend, &listed) {
                Ok(Some(subject)) => subject.len,
                Ok(None) => continue,
                Err(error) if is_out_of_reach(&error) => return Err(error),
                // Whoever opens it is told why that does not work.
                Err(_) => 0,
            },
        };
        measured.push((listed, len));
    }
    Ok(measured)
}

/// Whether an error says nothing of a pack, but that the place it lies in does not answer.
pub fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), NetworkDown | NetworkUnreachable | HostUnreachable | ConnectionRefused)
}

/// Opens a pack that was listed. `None`: it is gone by now.
pub(crate) fn open(backend: &dyn PackBackend, listed: &Listed) -> io::Result<Option<Subject>> {
    let id = listed.id;
    let mut sealed = listed.sealed;
    let mut opened = backend.open(id, sealed);
    if !sealed && matches!(&opened, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        // A store that was just opened seals what an earlier run left.
        sealed = true;
        opened = backend.open(id, sealed);
    }
    match opened {
        Ok(pack) => {
            let len = match listed.len.filter(|_| listed.sealed) {
                Some(len) => len,
                None => pack.len()?,
            };
            Ok(Some(Subject { id, pack, len, sealed, cut: false }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn check(
    backend: &dyn PackBackend,
    store: Option<&Store>,
    options: CheckOptions<'_>,
) -> Result<CheckReport, StoreError> {
    // What is applied now lies in packs that the list to come has, whoever writes meanwhile.
    let applied = store.map(Store::applied).transpose()?;
    // Numbers that a record to come will declare void.
    let void = store.map(Store::void).transpose()?.unwrap_or_default();
    if let Some(store) = store {
        store.catch_up()?;
    }
    let known = store.map(|store| store.packs().sealed_ids()).unwrap_or_default();
    let packs = measure(backend)?;
    let mut checker = Checker::new(options.depth, options.threads)?;
    let mut progress = CheckProgress {
        packs_total: packs.len() as u64,
        bytes_total: packs.iter().map(|(_, len)| len).sum(),
        ..CheckProgress::default()
    };
    (options.progress)(progress);
    checker.sequences.extend(void);
    let mut report = CheckReport::default();
    let mut facts_alone = HashSet::new();
    for (listed, len) in &packs {
        let before = progress.bytes;
        match open(backend, listed) {
            Ok(Some(mut subject)) => {
                subject.cut = store.is_some();
                let problems = checker.problems.len();
                let rows = checker.check(&subject, &mut |read| {
                    progress.bytes += read;
                    (options.progress)(progress);
                    Ok(())
                })?;
                // Nobody looks facts up in packs, so packs of facts alone are known to nobody.
                if backend.durability() == Durability::Sealed
                    && rows.iter().all(|row| row.kind == Kind::Facts)
                {
                    facts_alone.insert(subject.id);
                } else if let Some(store) = store
                    && checker.problems.len() > problems
                    && store.was_removed(subject.id)?
                {
                    checker.problems.truncate(problems);
                    checker.damage.0.retain(|(pack, _), _| *pack != subject.id);
                } else if let Some(store) = store {
                    located::check(store, subject.id, rows, &mut checker)?;
                }
                report.packs += 1;
                report.bytes += subject.len;
            }
            // Whether it may be gone is seen at the end.
            Ok(None) => {}
            Err(error) if is_out_of_reach(&error) => return Err(error.into()),
            Err(source) => {
                checker.problems.push(Problem::Unreadable { pack: listed.id, source });
            }
        }
        progress.packs += 1;
        progress.bytes = before + len;
        (options.progress)(progress);
    }
    if let Some(store) = store {
        let mut listed: HashSet<PackId> = packs.iter().map(|(listed, _)| listed.id).collect();
        listed.retain(|id| !facts_alone.contains(id));
        let unknown = located::compare(store, backend, known, listed, &mut checker.problems)?;
        if backend.durability() == Durability::Sealed {
            // A server was killed between storing a pack and saying so. Nobody was told that what is
            // in it was there.
            report.strays = unknown.len() as u64;
        } else {
            let unknown = unknown.into_iter().map(|pack| Problem::PackUnknown { pack });
            checker.problems.extend(unknown);
        }
    }
    missing_facts(&mut checker, options.depth, applied);
    let Checker { problems, damage, records, .. } = checker;
    Ok(CheckReport { problems, damage, records, ..report })
}

/// Finds transactions that were acknowledged and are in no pack. Sequence numbers grow by one.
fn missing_facts(checker: &mut Checker, depth: Depth, applied: Option<u64>) {
    let accounted = checker.sequences.iter().map(|numbers| numbers.last).max().unwrap_or_default();
    let accounted = accounted.max(checker.last_sequence);
    let last = applied.unwrap_or(accounted);
    let mut next = accounted + 1;
    if depth == Depth::Contents {
        next = 1;
        checker.sequences.sort_unstable_by_key(|numbers| numbers.first);
        for numbers in checker.sequences.iter().take_while(|numbers| numbers.first <= last) {
            if numbers.first > next {
                let (first, last) = (next, numbers.first - 1);
                checker.problems.push(Problem::FactsMissing { first, last });
            }
            next = next.max(numbers.last + 1);
        }
    }
    if next <= last {
        checker.problems.push(Problem::FactsMissing { first: next, last });
    }
}
