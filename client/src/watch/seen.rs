//! Which paths of the store need not be looked at again: the mark that a watcher leaves behind.
//!
//! Times of registration would be shorter, but they are no mark: clocks are set back, and `nix copy`
//! brings times along. What is written here was in the queue before, or in the store before the
//! first watcher; so a path that is not here may be pushed twice, but is never left out.
//!
//! The file `seen` of a queue: a line that says what it is, and then the first eight bytes of each
//! path's hash. Two of a million paths have the same eight bytes with a chance of 1 in 10⁷.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use castore::durable::write_file;
use nix_compat::store_path::StorePath;

const HEAD: &[u8] = b"granary seen 1\n";
const MARK: usize = 8;

/// Paths that were seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    marks: HashSet<[u8; MARK]>,
    /// Where they are kept, if anywhere.
    file: Option<PathBuf>,
    changed: bool,
}

fn mark(path: &StorePath) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&path.hash().as_bytes()[..MARK]);
    mark
}

impl Seen {
    /// Nothing was seen. Kept in a file, if one is named.
    pub(super) fn nothing(file: Option<PathBuf>) -> Self {
        Self { marks: HashSet::new(), file, changed: true }
    }

    /// What an earlier watcher has left in the file; `None` if there was none.
    pub(super) fn load(file: PathBuf) -> io::Result<Option<Self>> {
        let bytes = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let Some(marks) = bytes.strip_prefix(HEAD) else {
            tracing::warn!("{} is damaged: starting anew", file.display());
            return Ok(None);
        };
        let marks = marks.as_chunks().0.iter().copied().collect();
        Ok(Some(Self { marks, file: Some(file), changed: false }))
    }

    pub(super) fn contains(&self, path: &StorePath) -> bool {
        self.marks.contains(&mark(path))
    }

    pub(super) fn insert(&mut self, path: &StorePath) {
        self.changed |= self.marks.insert(mark(path));
    }

    pub(super) fn remove(&mut self, path: &StorePath) {
        self.changed |= self.marks.remove(&mark(path));
    }

    /// Keeps these, and forgets what is no longer in the store.
    pub(super) fn replace(&mut self, paths: &[StorePath]) {
        let marks: HashSet<_> = paths.iter().map(mark).collect();
        self.changed |= marks != self.marks;
        self.marks = marks;
    }

    /// Writes down what changed.
    pub(super) fn save(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.changed) else { return Ok(()) };
        let mut bytes = HEAD.to_vec();
        bytes.extend(self.marks.iter().flatten());
        write_file(file, &bytes, 0o600)?;
        self.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u8) -> StorePath {
        StorePath::new([number; 20].into(), "x").unwrap()
    }

    #[test]
    fn what_was_seen_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        assert!(Seen::load(file.clone()).unwrap().is_none());
        let mut seen = Seen::nothing(Some(file.clone()));
        (1..=3).for_each(|number| seen.insert(&path(number)));
        seen.remove(&path(2));
        seen.save().unwrap();
        let mut seen = Seen::load(file.clone()).unwrap().unwrap();
        assert_eq!([1, 2, 3].map(|number| seen.contains(&path(number))), [true, false, true]);
        seen.replace(&[path(3), path(4)]);
        seen.save().unwrap();
        let seen = Seen::load(file.clone()).unwrap().unwrap();
        assert_eq!([1, 3, 4].map(|number| seen.contains(&path(number))), [false, true, true]);
        fs::write(&file, b"?").unwrap();
        assert!(Seen::load(file).unwrap().is_none());
    }
}
