//! The read cache on the local disk: which files there are, and which goes next.
//!
//! `<id>.<page>` is a page of a pack, `<id>.pack` a whole one that was sealed here. A file for each page,
//! and not a sparse one for each pack: that a page is there is then its name, whole or not at all,
//! on every file system and after every crash, and the one used longest ago goes by an unlink.
//!
//! Nothing is synced and nothing is believed: records carry checksums, and a file that is gone or
//! short is fetched again. So names may be unlinked while somebody is about to open them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::pack::PackId;

/// What a cached file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All of the pack.
    Whole,
    /// So many pages from its start.
    Page(u32),
}

type Key = (PackId, Part);

struct Entry {
    bytes: u64,
    used: u64,
    /// Tells this file from an earlier one of the same name.
    stamp: u64,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// The one used longest ago first.
    order: BTreeMap<u64, Key>,
    bytes: u64,
    clock: u64,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn insert(&mut self, key: Key, bytes: u64) {
        self.remove(&key);
        let now = self.tick();
        self.entries.insert(key, Entry { bytes, used: now, stamp: now });
        self.order.insert(now, key);
        self.bytes += bytes;
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes;
        true
    }
}

/// A folder of cached pages, bounded by their bytes.
pub struct Disk {
    dir: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

impl Disk {
    /// Opens the folder, and finds what an earlier run cached.
    pub fn open(dir: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if let Some(key) = entry.file_name().to_str().and_then(parse) {
                let written = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((written, key, data.len()));
            } else if data.is_file() {
                fs::remove_file(entry.path())?; // Half written when its process died.
            }
        }
        found.sort();
        let disk = Self { dir, limit, state: Mutex::default() };
        {
            let mut state = disk.state();
            found.into_iter().for_each(|(_, key, bytes)| state.insert(key, bytes));
        }
        disk.make_room(0);
        Ok(disk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, (id, part): Key) -> PathBuf {
        self.dir.join(match part {
            Part::Whole => format!("{id}.pack"),
            Part::Page(page) => format!("{id}.{page}"),
        })
    }

    /// Whether there is a file of it, as far as is known.
    pub fn has(&self, id: PackId, part: Part) -> bool {
        self.state().entries.contains_key(&(id, part))
    }

    /// The file, and its stamp.
    pub fn get(&self, id: PackId, part: Part) -> Option<(File, u64)> {
        let key = (id, part);
        let stamp = {
            let mut state = self.state();
            let now = state.tick();
            let entry = state.entries.get_mut(&key)?;
            let (before, stamp) = (std::mem::replace(&mut entry.used, now), entry.stamp);
            state.order.remove(&before);
            state.order.insert(now, key);
            stamp
        };
        match File::open(self.path(key)) {
            Ok(file) => Some((file, stamp)),
            Err(_) => {
                self.forget(id, part, stamp);
                None
            }
        }
    }

    /// Removes the file of that stamp: it is not what it should be.
    pub fn forget(&self, id: PackId, part: Part, stamp: u64) {
        let key = (id, part);
        let mut state = self.state();
        if state.entries.get(&key).is_some_and(|entry| entry.stamp == stamp) {
            state.remove(&key);
            drop(state);
            let _ = fs::remove_file(self.path(key));
        }
    }

    /// Removes what there is of these pages, the whole pack included.
    pub fn remove(&self, id: PackId, pages: &RangeInclusive<u32>) {
        let mut state = self.state();
        let bad = |(of, part): &&Key| match part {
            _ if *of != id => false,
            Part::Whole => true,
            Part::Page(page) => pages.contains(page),
        };
        // Looks at every file there is, which is fine for what hardly ever happens.
        let keys: Vec<Key> = state.entries.keys().filter(bad).copied().collect();
        keys.iter().for_each(|key| {
            state.remove(key);
        });
        drop(state);
        for key in keys {
            let _ = fs::remove_file(self.path(key));
        }
    }

    /// Writes a page under a name that [`Disk::adopt`] makes its own.
    pub fn write(&self, id: PackId, page: u32, bytes: &[u8]) -> io::Result<PathBuf> {
        let unique = self.state().tick();
        let path = self.dir.join(format!("{id}.{page}.{unique}.tmp"));
        match fs::write(&path, bytes) {
            Ok(()) => Ok(path),
            Err(error) => {
                let _ = fs::remove_file(&path);
                if error.kind() == io::ErrorKind::StorageFull {
                    self.make_room(bytes.len() as u64 * 2);
                }
                Err(error)
            }
        }
    }

    /// Takes a file of so many bytes into the cache.
    pub fn adopt(&self, from: &Path, id: PackId, part: Part, bytes: u64) -> io::Result<()> {
        let key = (id, part);
        fs::rename(from, self.path(key))?;
        self.state().insert(key, bytes);
        self.make_room(0);
        Ok(())
    }

    /// Removes what was used longest ago: what is too much, or as many bytes as are asked for.
    fn make_room(&self, asked: u64) {
        let mut victims = Vec::new();
        {
            let mut state = self.state();
            let goal = self.limit.min(state.bytes.saturating_sub(asked));
            while state.bytes > goal
                && let Some((_, key)) = state.order.pop_first()
            {
                state.remove(&key);
                victims.push(key);
            }
        }
        for key in victims {
            let _ = fs::remove_file(self.path(key));
        }
    }

    /// Bytes that are cached.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }
}

fn parse(name: &str) -> Option<Key> {
    let (id, part) = name.split_once('.')?;
    let part = match part {
        "pack" => Part::Whole,
        page => Part::Page(page.parse().ok()?),
    };
    Some((id.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(disk: &Disk, id: PackId, page: u32, bytes: &[u8]) {
        let path = disk.write(id, page, bytes).unwrap();
        disk.adopt(&path, id, Part::Page(page), bytes.len() as u64).unwrap();
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path().into(), 30).unwrap();
        let id = PackId::from_bytes([1; 16]);
        (0..3).for_each(|page| keep(&disk, id, page, &[page as u8; 10]));
        assert!(disk.get(id, Part::Page(0)).is_some());
        keep(&disk, id, 3, &[3; 10]);
        assert_eq!(
            [0, 1, 2, 3].map(|page| disk.has(id, Part::Page(page))),
            [true, false, true, true]
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(disk.bytes(), 30);
    }

    #[test]
    fn a_restart_finds_what_is_whole_and_removes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let id = PackId::from_bytes([1; 16]);
        {
            let disk = Disk::open(dir.path().into(), 100).unwrap();
            keep(&disk, id, 7, b"page");
            disk.write(id, 8, b"half").unwrap();
        }
        let disk = Disk::open(dir.path().into(), 100).unwrap();
        assert!(disk.has(id, Part::Page(7)) && !disk.has(id, Part::Page(8)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(Disk::open(dir.path().into(), 3).unwrap().bytes(), 0, "a smaller cache");
    }

    #[test]
    fn a_file_that_somebody_removed_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path().into(), 100).unwrap();
        let id = PackId::from_bytes([1; 16]);
        keep(&disk, id, 0, b"page");
        fs::remove_file(disk.path((id, Part::Page(0)))).unwrap();
        assert!(disk.get(id, Part::Page(0)).is_none() && !disk.has(id, Part::Page(0)));
        assert_eq!(disk.bytes(), 0);
    }
}
