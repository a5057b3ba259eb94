//! Where every record lies: numerous, small, and rebuilt from the packs' footers at any time.
//!
//! Chunk locations are by far the most numerous thing an index holds (ten million for 400 GB of
//! files), so they stay out of the ordered-key engine. They live as the footers of sealed packs and,
//! as those become many, as merged *segments*: sorted tables in files of their own, of which only a
//! filter and one key in 64 are held in memory. A table in memory covers the records that no footer
//! covers yet. A lookup costs at most one read of 3.3 KiB per segment that may hold the key.

mod filter;
mod segment;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use segment::Segment;

use crate::Digest;
use crate::pack::{Kind, PackId, Row};
use crate::packs::Packs;

/// So many segments of about the same size become one. A lookup asks up to this many segments per
/// size class, and every row is rewritten once per class.
const FANOUT: usize = 8;
/// The smallest size class, in rows: about a pack's worth.
const FIRST_CLASS: u64 = 16 * 1024;

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

/// Finds records by kind and digest.
pub struct Locations {
    dir: PathBuf,
    packs: Arc<Packs>,
    /// Whether footers can be read at any time. Where they are elsewhere, each becomes a segment file
    /// at once.
    footers_at_hand: bool,
    recent: RwLock<HashMap<(Digest, Kind), Location>>,
    segments: RwLock<Vec<Arc<Segment>>>,
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
            segments: RwLock::new(segments),
            maintenance: Mutex::new(open),
        })
    }

    /// The slots of the packs that some segment covers.
    pub fn covered(&self) -> HashSet<u32> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().flat_map(|segment| segment.packs().collect::<Vec<_>>()).collect()
    }

    /// Where the record lies.
    pub fn find(&self, digest: &Digest, kind: Kind) -> io::Result<Option<Location>> {
        {
            let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(location) = recent.get(&(*digest, kind)) {
                return Ok(Some(*location));
            }
        }
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        for segment in segments.iter().rev() {
            if let Some(location) = segment.find(&self.packs, digest, kind)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// Makes records of an unsealed pack known.
    pub fn add_recent(&self, slot: u32, rows: &[Row]) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            recent.entry(row.key()).or_insert_with(|| Location::of(row, slot));
        }
    }

    /// A pack was sealed: from here on its footer answers for its rows, which are sorted.
    pub fn add_footer(&self, slot: u32, rows_at: u64, rows: &[Row]) -> io::Result<()> {
        let added = if self.footers_at_hand {
            Open { segment: Arc::new(Segment::of_footer(slot, rows_at, rows)), path: None }
        } else {
            let path = self.new_path()?;
            let segment =
                Segment::merge(&[Arc::new(Segment::of_rows(slot, rows))], &path, &self.packs)?;
            Open { segment: Arc::new(segment), path: Some(path) }
        };
        let mut open = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(added);
        self.publish(&open);
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            if recent.get(&row.key()).is_some_and(|location| location.pack == slot) {
                recent.remove(&row.key());
            }
        }
        drop(recent);
        self.merge(&mut open)
    }

    fn new_path(&self) -> io::Result<PathBuf> {
        Ok(self.dir.join(format!("{}.seg", PackId::random()?)))
    }

    fn publish(&self, open: &[Open]) {
        let segments = open.iter().map(|open| open.segment.clone()).collect();
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
            let path = self.new_path()?;
            let merged = Segment::merge(&parts, &path, &self.packs)?;
            let mut obsolete = Vec::new();
            for &at in members.iter().rev() {
                obsolete.extend(open.remove(at).path);
            }
            // Older segments come first: a lookup starts with the newest.
            let first = members.first().copied().unwrap_or(0).min(open.len());
            open.insert(first, Open { segment: Arc::new(merged), path: Some(path) });
            self.publish(open);
            for path in obsolete {
                fs::remove_file(path)?;
            }
        }
    }
}
