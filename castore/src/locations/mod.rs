//! Where every record lies: numerous, small, and rebuilt from the packs' footers at any time.
//!
//! Chunk locations are by far the most numerous thing an index holds (ten million for 400 GB of
//! files), so they stay out of the ordered-key engine. They live as the footers of sealed packs and,
//! as those become many, as merged *segments*: sorted tables in files of their own, of which only a
//! filter and one key in 64 are held in memory. A table in memory covers the records that no footer
//! covers yet. A lookup costs at most one read of 3.3 KiB per segment that may hold the key.

mod filter;
mod segment;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use filter::Filter;
pub use segment::Segment;

use crate::Digest;
use crate::pack::{Kind, PackId, Row};
use crate::packs::{Packs, Standing};

/// So many segments of about the same size become one. A lookup asks up to this many segments per
/// size class, and every row is rewritten once per class.
const FANOUT: usize = 8;
/// The smallest size class, in rows: about a pack's worth.
const FIRST_CLASS: u64 = 16 * 1024;

/// A segment is written anew when one pack in so many of those in it is gone.
const REWRITTEN_FROM: usize = 4;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Slot of the pack.
    pub pack: u32,
    /// What the record holds.
    pub kind: Kind,
    /// Offset of its header.
    pub offset: u64,
    /// Length of its data frames.
    pub stored: u32,
    /// Length of its plain bytes.
    pub plain: u32,
}

impl Location {
    /// The location that a row gives, in the pack of that slot.
    pub fn of(row: &Row, pack: u32) -> Self {
        let Row { kind, offset, stored, plain, .. } = *row;
        Self { pack, kind, offset, stored, plain }
    }
}

struct Open {
    segment: Arc<Segment>,
    /// The segment's own file; `None` for a footer.
    path: Option<PathBuf>,
}

/// Removes the files of segments that nobody is told of any more. One that stays is removed by the next
/// start.
fn remove_files(obsolete: impl IntoIterator<Item = Open>) {
    for path in obsolete.into_iter().filter_map(|open| open.path) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old segment could not be removed");
        }
    }
}

/// Finds records by kind and digest.
pub struct Locations {
    dir: PathBuf,
    packs: Arc<Packs>,
    /// Whether footers can be read at any time. Where they are elsewhere, each becomes a segment file
    /// at once.
    footers_at_hand: bool,
    recent: RwLock<HashMap<(Digest, Kind), Location>>,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// By slot and offset.
    damaged: RwLock<HashSet<(u32, u64)>>,
    some_damaged: AtomicBool,
    /// How often that changed.
    damage_changes: AtomicU64,
    /// Held while the set of segments changes.
    maintenance: Mutex<Vec<Open>>,
}

impl Locations {
    /// Opens the segments in `dir`. A segment file that is damaged, or whose packs another one
    /// covers as well (a merge that was cut short), is removed; the footers still have its rows.
    pub fn open(dir: &Path, packs: Arc<Packs>, footers_at_hand: bool) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let segment = match path.extension().and_then(|suffix| suffix.to_str()) {
                Some("seg") => Segment::open(&path, &packs),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
            match segment {
                Ok(segment) => found.push((segment, path)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(path = %path.display(), %error, "removing a damaged segment");
                    fs::remove_file(&path)?;
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|(segment, _)| std::cmp::Reverse(segment.row_count()));
        let mut covered = HashSet::new();
        let mut open = Vec::new();
        for (segment, path) in found {
            let fresh: Vec<u32> = segment.packs().filter(|slot| !covered.contains(slot)).collect();
            if fresh.is_empty() {
                fs::remove_file(&path)?;
                continue;
            }
            covered.extend(fresh);
            open.push(Open { segment: Arc::new(segment), path: Some(path) });
        }
        let segments = open.iter().map(|open| open.segment.clone()).collect();
        Ok(Self {
            dir: dir.to_owned(),
            packs,
            footers_at_hand,
            recent: RwLock::default(),
            segments: RwLock::new(Arc::new(segments)),
            damaged: RwLock::default(),
            some_damaged: AtomicBool::new(false),
            damage_changes: AtomicU64::new(0),
            maintenance: Mutex::new(open),
        })
    }

    /// The slots of the packs that some segment covers.
    pub fn covered(&self) -> HashSet<u32> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().flat_map(|segment| segment.packs().collect::<Vec<_>>()).collect()
    }

    /// Where the record lies: rather where it stays than where it is condemned. What is damaged is not
    /// there.
    pub fn find(&self, digest: &Digest, kind: Kind) -> io::Result<Option<Location>> {
        self.while_packs_go(|| {
            if self.packs.all_stay() {
                return self.first(digest, kind, &|location| self.stays(location));
            }
            let condemned = Cell::new(None);
            let kept = self.first(digest, kind, &|location| {
                let standing = self.packs.standing(location.pack);
                if standing == Standing::Gone || self.is_damaged(location) {
                    return false;
                }
                if standing == Standing::Condemned && condemned.get().is_none() {
                    condemned.set(Some(*location));
                }
                standing == Standing::Stays
            })?;
            Ok(kept.or(condemned.get()))
        })
    }

    /// Where the record lies and stays.
    pub fn kept(&self, digest: &Digest, kind: Kind) -> io::Result<Option<Location>> {
        self.while_packs_go(|| self.first(digest, kind, &|location| self.stays(location)))
    }

    /// Looks again when a pack is removed meanwhile: what was in it has moved, perhaps to where it was
    /// looked for before.
    fn while_packs_go(
        &self,
        look: impl Fn() -> io::Result<Option<Location>>,
    ) -> io::Result<Option<Location>> {
        loop {
            let gone = self.packs.gone_so_far();
            match look() {
                Ok(Some(location)) => return Ok(Some(location)),
                _ if self.packs.gone_so_far() != gone => continue,
                found => return found,
            }
        }
    }

    /// The same, if no footer answers for it yet. Reads nothing.
    pub fn kept_recently(&self, digest: &Digest, kind: Kind) -> Option<Location> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        recent.get(&(*digest, kind)).filter(|location| self.stays(location)).copied()
    }

    fn stays(&self, location: &Location) -> bool {
        (self.packs.all_stay() || self.packs.standing(location.pack) == Standing::Stays)
            && !self.is_damaged(location)
    }

    fn first(
        &self,
        digest: &Digest,
        kind: Kind,
        accept: &dyn Fn(&Location) -> bool,
    ) -> io::Result<Option<Location>> {
        {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(location) = recent.get(&(*digest, kind)).filter(|at| accept(at)) {
                return Ok(Some(*location));
            }
        }
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        for segment in segments.iter().rev() {
            // The footer of a pack that is removed at this moment.
            let is_gone = |slot| self.packs.standing(slot) == Standing::Gone;
            if segment.footer_of().is_some_and(is_gone) {
                continue;
            }
            if let Some(location) = segment.find(&self.packs, digest, kind, accept)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// What lies there is damaged: it counts as not being there from now on.
    pub fn add_damaged(&self, slot: u32, offset: u64) {
        let mut damaged = self.damaged.write().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert((slot, offset)) {
            self.some_damaged.store(true, Ordering::Release);
            self.damage_changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Just this is damaged, by slot and offset.
    pub fn set_damaged(&self, all: HashSet<(u32, u64)>) {
        let mut damaged = self.damaged.write().unwrap_or_else(PoisonError::into_inner);
        if *damaged != all {
            self.some_damaged.store(!all.is_empty(), Ordering::Release);
            *damaged = all;
            self.damage_changes.fetch_add(1, Ordering::Release);
        }
    }

    /// How often it changed what is known to be damaged.
    pub fn damage_changes(&self) -> u64 {
        self.damage_changes.load(Ordering::Acquire)
    }

    /// Whether that is known of what lies there.
    pub fn is_damaged(&self, location: &Location) -> bool {
        self.some_damaged.load(Ordering::Acquire)
            && self
                .damaged
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&(location.pack, location.offset))
    }

    /// How many records the sealed packs hold, copies included.
    pub fn row_count(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|segment| segment.row_count()).sum()
    }

    /// Gives every record of sealed packs to `each`, copies included. What is sealed meanwhile may be
    /// missing.
    pub fn each_row(&self, each: &mut dyn FnMut(&Digest, &Location)) -> io::Result<()> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        segments.iter().try_for_each(|segment| segment.each_row(&self.packs, each))
    }

    /// Makes records of an unsealed pack known.
    pub fn add_recent(&self, slot: u32, rows: &[Row]) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            let added = Location::of(row, slot);
            let known = recent.entry(row.key()).or_insert(added);
            if self.is_damaged(known) {
                *known = added;
            }
        }
    }

    /// Forgets what only packs that are gone have: their footers, and, where they are many, their rows
    /// in segments. Nothing rests on that, and it may be a full disk that packs are removed from: what
    /// cannot be written anew stays as it is.
    pub fn leave_out_gone(&self) {
        let gone = |slot: u32| self.packs.standing(slot) == Standing::Gone;
        loop {
            let rewritten = {
                let mut open = self.maintenance();
                let (left, obsolete): (Vec<_>, Vec<_>) = std::mem::take(&mut *open)
                    .into_iter()
                    .partition(|open| !open.segment.packs().all(gone));
                *open = left;
                self.publish(&open);
                remove_files(obsolete);
                let many_gone = |open: &&Open| {
                    let gone = open.segment.packs().filter(|slot| gone(*slot)).count();
                    gone > 0 && gone * REWRITTEN_FROM >= open.segment.packs().count()
                };
                let files = open.iter().filter(|open| open.path.is_some());
                files.clone().find(many_gone).map(|open| open.segment.clone())
            };
            let Some(old) = rewritten else { return };
            // Without the lock: a large segment takes many seconds, and whoever seals a pack waits for it.
            let new = match self.write(std::slice::from_ref(&old)) {
                Ok(new) => new,
                Err(error) => {
                    tracing::warn!(%error, "a segment could not be written anew; it stays larger");
                    return;
                }
            };
            let mut open = self.maintenance();
            let place = open.iter_mut().find(|open| Arc::ptr_eq(&open.segment, &old));
            // If it is not there any more it has been merged with others, and what is gone was left out.
            let obsolete = match place {
                Some(place) => std::mem::replace(place, new),
                None => new,
            };
            self.publish(&open);
            remove_files([obsolete]);
        }
    }

    fn maintenance(&self) -> MutexGuard<'_, Vec<Open>> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pack was sealed: from here on its footer answers for its rows, which are sorted. Where they cannot
    /// be written to a file, they are held in memory: to its owner the pack is sealed, however that ends.
    pub fn add_footer(&self, slot: u32, rows_at: u64, rows: &[Row]) {
        let segment = self.segment_of(slot, rows_at, rows).unwrap_or_else(|error| {
            tracing::warn!(%error, "a segment could not be written; it is held in memory");
            Open { segment: Arc::new(Segment::of_rows(slot, rows)), path: None }
        });
        self.add(segment, slot, rows);
    }

    /// The same for one of the many packs that are there at the start: memory has no room for all.
    pub fn load_footer(&self, slot: u32, rows_at: u64, rows: &[Row]) -> io::Result<()> {
        self.add(self.segment_of(slot, rows_at, rows)?, slot, rows);
        Ok(())
    }

    fn segment_of(&self, slot: u32, rows_at: u64, rows: &[Row]) -> io::Result<Open> {
        if self.footers_at_hand {
            let segment = Arc::new(Segment::of_footer(slot, rows_at, rows));
            return Ok(Open { segment, path: None });
        }
        self.write(&[Arc::new(Segment::of_rows(slot, rows))])
    }

    fn add(&self, added: Open, slot: u32, rows: &[Row]) {
        let mut open = self.maintenance();
        open.push(added);
        self.publish(&open);
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            if recent.get(&row.key()).is_some_and(|location| location.pack == slot) {
                recent.remove(&row.key());
            }
        }
        drop(recent);
        if let Err(error) = self.merge(&mut open) {
            tracing::warn!(%error, "segments could not be merged; the next one tries again");
        }
    }

    /// Makes one file of segments.
    fn write(&self, parts: &[Arc<Segment>]) -> io::Result<Open> {
        let path = self.dir.join(format!("{}.seg", PackId::random()?));
        let segment = Segment::merge(parts, &path, &self.packs)?;
        Ok(Open { segment: Arc::new(segment), path: Some(path) })
    }

    fn publish(&self, open: &[Open]) {
        let segments = Arc::new(open.iter().map(|open| open.segment.clone()).collect());
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = segments;
    }

    /// Merges as long as some size class holds too many segments.
    fn merge(&self, open: &mut Vec<Open>) -> io::Result<()> {
        let class =
            |segment: &Segment| (segment.row_count() / FIRST_CLASS).checked_ilog(FANOUT as u64);
        loop {
            let mut by_class: HashMap<_, Vec<usize>> = HashMap::new();
            for (at, open) in open.iter().enumerate() {
                by_class.entry(class(&open.segment)).or_default().push(at);
            }
            let Some(members) = by_class.into_values().find(|class| class.len() >= FANOUT) else {
                return Ok(());
            };
            let parts: Vec<Arc<Segment>> =
                members.iter().map(|&at| open[at].segment.clone()).collect();
            let merged = self.write(&parts)?;
            let obsolete: Vec<Open> = members.iter().rev().map(|&at| open.remove(at)).collect();
            // Older segments come first: a lookup starts with the newest.
            let first = members.first().copied().unwrap_or(0).min(open.len());
            open.insert(first, merged);
            self.publish(open);
            remove_files(obsolete);
        }
    }
}
