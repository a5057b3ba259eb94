//! Where a walk through a NAR stands: the open directories and the last name
//! seen in each. Reader and writer share it, so that they agree on the rules.

use super::rules::{Limits, Violation, check_name};

/// The current path, and for each open directory where in that path the name
/// of its latest entry begins. Once a subdirectory is left its name is still
/// there, and is what the next entry must sort after.
#[derive(Debug, Default)]
pub(super) struct Trail {
    path: Vec<u8>,
    /// One per open directory: start of its latest entry's name in `path`.
    open: Vec<usize>,
}

impl Trail {
    /// The path of the latest node, relative to the root, names joined by `/`.
    pub fn path(&self) -> &[u8] {
        self.path.strip_suffix(b"/").unwrap_or(&self.path)
    }

    /// The path of the innermost open directory.
    pub fn directory(&self) -> &[u8] {
        let end = self.open.last().map_or(0, |start| start.saturating_sub(1));
        self.path.get(..end).unwrap_or_default()
    }

    /// The name of the latest entry of the innermost open directory; empty
    /// for the root itself and where there was no entry yet.
    pub fn name(&self) -> &[u8] {
        self.open.last().map_or(&[], |&start| self.path.get(start..).unwrap_or_default())
    }

    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Moves to the next entry of the innermost open directory.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), Violation> {
        check_name(name)?;
        let previous = self.name();
        if name <= previous {
            return Err(if name == previous {
                Violation::Duplicate(name.to_vec())
            } else {
                Violation::Unsorted { name: name.to_vec(), previous: previous.to_vec() }
            });
        }
        self.path.truncate(self.open.last().copied().unwrap_or_default());
        self.path.extend_from_slice(name);
        Ok(())
    }

    /// The latest node is a directory: opens it.
    pub fn open(&mut self, limits: &Limits) -> Result<(), Violation> {
        if self.open.len() >= limits.max_depth {
            return Err(Violation::TooDeep { limit: limits.max_depth });
        }
        if !self.open.is_empty() {
            self.path.push(b'/');
        }
        self.open.push(self.path.len());
        Ok(())
    }

    /// Leaves the innermost open directory; it is the latest node again.
    pub fn close(&mut self) {
        if let Some(start) = self.open.pop() {
            // The root's entries begin at 0, all others after a slash.
            self.path.truncate(start.saturating_sub(1));
        }
    }
}
