//! What pins keep: their paths, and what these were built from.
//!
//! From a path one gets to its references. With sources one also gets to its derivation, whose
//! references are the derivations and files that it needs, and from each derivation to its outputs,
//! which are what was fetched, and what else was built on the way. Together, followed to the end, that
//! is all that a release was made of, as far as the cache has it.

use std::collections::HashSet;

use castore::tree::Node;
use castore::{Cause, StoreError};
use nix_compat::derivation;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::{Need, PinRevision};
use crate::cache::{Cache, CacheError};
use crate::records::{PathRecord, digest};

/// The longest derivation that is read, in bytes: the largest there are take some hundred KB.
const MAX_DERIVATION: u64 = 16 * 1024 * 1024;

/// What a walk comes upon.
pub(super) enum Met<'a> {
    /// A path that the cache has.
    Here(&'a StorePath, &'a PathRecord),
    /// One that it lacks.
    Lacking(&'a StorePath, &'a Need),
    /// A derivation whose bytes are lost or damaged, so that it is not known what it made.
    Unreadable(&'a StorePath, StoreError),
}

/// Whether a walk goes on to the outputs of what it met, if that is a derivation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Inside,
    Past,
}

/// What is to be walked, and what was. Each path takes some 20 bytes, for as long as that lasts.
pub(super) struct Reach<'a> {
    cache: &'a Cache,
    sources: bool,
    seen: HashSet<StorePathHash>,
    next: Vec<(StorePath, Need)>,
}

impl<'a> Reach<'a> {
    pub fn new(cache: &'a Cache) -> Self {
        Self { cache, sources: false, seen: HashSet::new(), next: Vec::new() }
    }

    /// Walks from these, and goes nowhere it was before. So what is kept with sources comes first.
    pub fn walk<'r>(
        &mut self,
        revisions: impl Iterator<Item = &'r PinRevision>,
        sources: bool,
        met: &mut dyn FnMut(Met<'_>) -> Result<Look, CacheError>,
    ) -> Result<(), CacheError> {
        self.sources = sources;
        // All of them first: that one is missing which was pinned weighs more than that it is a
        // reference of another.
        revisions.for_each(|revision| self.add(revision.path.clone(), Need::Pinned));
        while let Some((path, need)) = self.next.pop() {
            let Some((_, record)) = self.cache.path_record(path.hash())? else {
                met(Met::Lacking(&path, &need))?;
                continue;
            };
            let look = met(Met::Here(&path, &record))?;
            for reference in record.references.iter().filter_map(|name| name.parse().ok()) {
                self.add(reference, Need::Reference { of: path.clone() });
            }
            if !sources {
                continue;
            }
            self.deriver(&path, &record, need == Need::Pinned, met)?;
            if path.is_derivation() && look == Look::Inside {
                self.outputs(&path, &record, met)?;
            }
        }
        Ok(())
    }

    /// Everything that was come upon, what is missing included.
    pub fn into_seen(self) -> HashSet<StorePathHash> {
        self.seen
    }

    fn add(&mut self, path: StorePath, need: Need) {
        if self.seen.insert(path.hash()) {
            self.next.push((path, need));
        }
    }

    /// The same for what may be absent: then it is as if nobody had named it.
    fn add_if_there(&mut self, path: StorePath, need: Need) -> Result<(), CacheError> {
        if !self.seen.contains(&path.hash()) && self.cache.path_record(path.hash())?.is_some() {
            self.add(path, need);
        }
        Ok(())
    }

    /// To the derivation of a path. That of a pinned one has to be there; it leads to those of all
    /// that was built for it.
    fn deriver(
        &mut self,
        path: &StorePath,
        record: &PathRecord,
        pinned: bool,
        met: &mut dyn FnMut(Met<'_>) -> Result<Look, CacheError>,
    ) -> Result<(), CacheError> {
        let need = Need::Derivation { of: path.clone() };
        match record.deriver.parse::<StorePath>() {
            Ok(deriver) if pinned => self.add(deriver, need),
            Ok(deriver) => self.add_if_there(deriver, need)?,
            // What was put into the store as it is (a file, a derivation) was not built.
            Err(_) if pinned && record.ca.is_empty() => {
                met(Met::Lacking(path, &Need::UnknownDerivation))?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// To the outputs of a derivation. What is fetched has to be there: from the rest it could not be
    /// made again.
    fn outputs(
        &mut self,
        path: &StorePath,
        record: &PathRecord,
        met: &mut dyn FnMut(Met<'_>) -> Result<Look, CacheError>,
    ) -> Result<(), CacheError> {
        let outputs = match self.cache.derivation_outputs(path, record) {
            Ok(outputs) => outputs,
            Err(CacheError::Store(error)) if error.cause() == Cause::Lost => {
                met(Met::Unreadable(path, error))?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for output in outputs {
            let need = Need::Source { of: path.clone() };
            let fixed = output.is_fixed();
            match output.path {
                Some(output) if fixed => self.add(output, need),
                Some(output) => self.add_if_there(output, need)?,
                None => {}
            }
        }
        Ok(())
    }
}

impl Cache {
    /// What pins keep at that time, in seconds since 1970: the paths of all live revisions, and of
    /// those with sources also everything that they were built from and that the cache has.
    ///
    /// References are for the caller to follow, from each of these; of some they are among them
    /// already, and so may be paths that the cache lacks. Fails where it cannot be told what is kept,
    /// as when a pinned derivation is damaged. Blocks.
    pub fn pinned_roots(&self, now: u64) -> Result<Vec<StorePathHash>, CacheError> {
        let pins = self.pins()?;
        let live = pins.iter().flat_map(|pin| &pin.revisions).filter(|one| one.is_live(now));
        let (with, without): (Vec<_>, Vec<_>) = live.partition(|one| one.with_sources);
        let mut reach = Reach::new(self);
        reach.walk(with.into_iter(), true, &mut |met| match met {
            Met::Unreadable(path, error) => {
                tracing::error!(
                    cache = %self.name, %path, %error,
                    "a derivation that a pin keeps is damaged: push it again, or remove the pin"
                );
                Err(error.into())
            }
            Met::Here(..) | Met::Lacking(..) => Ok(Look::Inside),
        })?;
        let mut roots = reach.into_seen();
        roots.extend(without.into_iter().map(|revision| revision.path.hash()));
        Ok(roots.into_iter().collect())
    }

    /// The outputs of a derivation that the cache has. What is called as one and is none has none.
    fn derivation_outputs(
        &self,
        path: &StorePath,
        record: &PathRecord,
    ) -> Result<Vec<derivation::Output>, CacheError> {
        let text = self.read_derivation(path, record)?;
        let Some(text) = text else { return Ok(Vec::new()) };
        Ok(derivation::outputs(&text, &self.store_dir).unwrap_or_else(|error| {
            tracing::warn!(cache = %self.name, %path, %error, "this is not a derivation");
            Vec::new()
        }))
    }

    fn read_derivation(
        &self,
        path: &StorePath,
        record: &PathRecord,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        let tree = self.store.tree(&digest(&record.name, &record.tree)?)?;
        let Node::File { digest: blob, size, .. } = tree.root() else { return Ok(None) };
        if *size > MAX_DERIVATION {
            tracing::warn!(cache = %self.name, %path, size, "this is too long for a derivation");
            return Ok(None);
        }
        let mut text = Vec::new();
        if *size > 0 {
            let mut reader = self.store.reader()?;
            for chunk in self.store.chunks_of(&tree, blob, *size)? {
                reader.append_chunk(&chunk, &mut text)?;
            }
        }
        Ok(Some(text))
    }
}
