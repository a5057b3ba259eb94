//! Chunks that are sent, and trees that are put together from them.

use super::*;

impl World {
    /// Takes in the records of some chunks of a file, or of those that are asked for.
    pub(super) fn take(&mut self, member: usize, wanted: &[(Digest, &[u8])]) -> Result<(), Fault> {
        let store = self.store(member)?;
        let mut intake = store.intake(holder()).map_err(failed("beginning to take chunks in"))?;
        for (digest, record) in wanted {
            let claim = holder().claim(digest);
            let known = [(Kind::Chunk, *digest), (Kind::Claim, claim)]
                .iter()
                .map(|(kind, digest)| store.locate(*kind, digest))
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed("locating a chunk"))?;
            intake.add_all(*record).map_err(failed("taking a chunk in"))?;
            if known.iter().all(Option::is_none) && !self.site.is_shared() {
                self.sent.insert(*digest);
            }
            self.unpublished.insert(*digest);
        }
        intake.finish().map_err(failed("taking chunks in"))?;
        for (digest, _) in wanted {
            self.mend(member, digest);
            let held = store.held(&[holder()], digest).map_err(failed("asking for a chunk"))?;
            if held.is_none() {
                return Err(format!("chunk {digest} was taken in and is not held"));
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, member: usize, file: usize, b: u16) -> Result<(), Fault> {
        let records = POOL[file].records.iter().enumerate();
        let some = records.filter(|(at, _)| b >> (at % 8) & 1 == 0);
        let some: Vec<(Digest, &[u8])> =
            some.map(|(_, (digest, record))| (*digest, &record[..])).collect();
        self.take(member, &some)
    }

    pub(super) fn assemble(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let files = vec![pool::pick(a), pool::pick(b), pool::pick(a / 7 + b / 3)];
        let store = self.store(member)?;
        let (tree, lists) = pool::encoded(&files);
        let mut assembly = store.assemble(tree, lists).map_err(failed("assembling a tree"))?;
        let missing = assembly.missing(&[holder()]).map_err(failed("what a tree misses"))?;
        if missing.is_empty() {
            let pushing = Pushing { assembly, files };
            self.member(member)?.pushes[usize::from(b) % PUSHES] = Some(pushing);
            return Ok(());
        }
        // They are sent; who publishes asks again.
        drop(assembly);
        let records = files.iter().flat_map(|file| &POOL[*file].records);
        let wanted: Vec<(Digest, &[u8])> = records
            .filter(|(digest, _)| missing.contains(digest))
            .map(|(digest, record)| (*digest, &record[..]))
            .collect();
        self.take(member, &wanted)?;
        let (tree, lists) = pool::encoded(&files);
        let mut assembly = store.assemble(tree, lists).map_err(failed("assembling a tree"))?;
        let missing = assembly.missing(&[holder()]).map_err(failed("what a tree misses"))?;
        if !missing.is_empty() && !self.has_damaged(&files) {
            return Err(format!("{missing:?} were sent just now and are missing"));
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let store = self.store(member)?;
        let pushes = &mut self.member(member)?.pushes;
        let at = choose(pushes, a, Option::is_some).unwrap_or_default();
        let Some(pushing) = pushes[at].take() else { return Ok(()) };
        let Pushing { mut assembly, files } = pushing;
        let mut published = || {
            for file in &files {
                let Content { bytes, blob, .. } = &POOL[*file];
                let mut read = Vec::new();
                let mut each = |piece: &[u8]| {
                    read.extend_from_slice(piece);
                    true
                };
                assembly.read_file(&blob.digest, blob.size, &mut each)?;
                if read != *bytes {
                    return Ok(Err(format!("file {file} of a pushed tree is another")));
                }
            }
            Ok(Ok(()))
        };
        let read: Result<Result<(), Fault>, AssemblyError> = published();
        let done = match read {
            Ok(same) => {
                same?;
                let finished = assembly.finish(holder());
                if finished.is_ok() {
                    let chunks = pool::chunks(&files);
                    self.unpublished.retain(|chunk| !chunks.contains(chunk));
                    if self.unpublished.is_empty() {
                        self.sent.clear();
                    }
                }
                finished
            }
            Err(error) => Err(error),
        };
        let key = key(b);
        let done = done.and_then(|(tree, flight)| {
            let value = tree.as_bytes().to_vec();
            let transaction = || put(&key, &value);
            let (since, holder) = (flight.epoch(), Some(holder()));
            let flight = Some(&*flight);
            Ok(store.commit_secured(&tree, holder, since, flight, transaction)?)
        });
        match done {
            Ok(_) => self.name(member, &key, files),
            Err(AssemblyError::Store(error)) if is_missing(&error) && self.has_damaged(&files) => {
                self.tally.refused += 1;
            }
            Err(error) => return Err(format!("publishing a pushed tree of {files:?}: {error}")),
        }
        Ok(())
    }
}
