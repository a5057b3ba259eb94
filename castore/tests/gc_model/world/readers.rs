//! What builds on facts that are there: publishing anew, and reading where something was found to lie.

use super::*;

impl World {
    pub(super) fn refer(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let store = self.store(member)?;
        let epoch = store.epoch();
        let Some(key) = self.some_key(a) else { return Ok(()) };
        let Some(fact) = store.fact(&key).map_err(failed("reading a fact"))? else {
            return Ok(());
        };
        let tree = Digest::from_slice(&fact.value).ok_or("a fact is not a digest")?;
        let files = self.keys.get(&key).cloned().ok_or("a removed key is there")?;
        let begun = self.step;
        let referring = Referring { key, secured: None, tree, files, epoch, begun };
        self.member(member)?.refers[usize::from(b) % 2] = Some(referring);
        Ok(())
    }

    pub(super) fn follow(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let store = self.store(member)?;
        let refers = &mut self.member(member)?.refers;
        let at = choose(refers, a, Option::is_some).unwrap_or_default();
        let Some(referring) = refers[at].take() else { return Ok(()) };
        let Referring { tree, files, epoch, begun, secured, .. } = &referring;
        let (tree, files, begun) = (*tree, files.clone(), *begun);
        let key = key(b);
        let value = tree.as_bytes().to_vec();
        let transaction = || put(&key, &value);
        let done = if secured.is_none() && b.is_multiple_of(3) {
            store.secure(&tree, Some(holder()), *epoch, None).map(Some)
        } else if commit_in(&store, *secured, transaction())? {
            Ok(None)
        } else {
            store.commit_secured(&tree, Some(holder()), *epoch, None, transaction).map(|_| None)
        };
        match done {
            Ok(secured @ Some(_)) => {
                let referring = Referring { secured, ..referring };
                self.member(member)?.refers[at] = Some(referring);
            }
            Ok(None) => self.name(member, &key, files),
            // It was not named by anything for a while, and collected.
            Err(error)
                if is_missing(&error)
                    && (self.has_damaged(&files)
                        || self.swept >= begun
                            && self.unnamed.get(&tree).is_some_and(|at| *at >= begun)) =>
            {
                self.tally.refused += 1;
            }
            Err(error) => return Err(format!("committing what a fact named, {files:?}: {error}")),
        }
        Ok(())
    }

    /// A key that something is committed under.
    pub(super) fn some_key(&self, number: u16) -> Option<Vec<u8>> {
        self.keys.keys().nth(usize::from(number) % self.keys.len().max(1)).cloned()
    }

    pub(super) fn lookup(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let Some(key) = self.some_key(a) else { return Ok(()) };
        let Some(files) = self.keys.get(&key).filter(|files| !self.has_damaged(files)) else {
            return Ok(());
        };
        let (tree, begun, mut records) = (pool::tree_of(files), self.step, Vec::new());
        let store = self.store(member)?;
        for digest in pool::chunks(files) {
            let location = store.find(Kind::Chunk, &digest).map_err(failed("finding a chunk"))?;
            records.push((digest, location));
        }
        records.sort_by_key(|(_, location)| (location.pack, location.offset));
        let looked = Looked { key, tree, begun, records };
        self.member(member)?.looked[usize::from(b) % 2] = Some(looked);
        Ok(())
    }

    pub(super) fn reread(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        let store = self.store(member)?;
        let slot = &self.members[member].as_ref().ok_or("the store is not open")?.looked
            [usize::from(a) % 2];
        let Some(Looked { key, tree, begun, records }) = slot else { return Ok(()) };
        let mut frames: Vec<Vec<u8>> =
            records.iter().map(|(_, location)| vec![0; location.stored as usize]).collect();
        let buffers = frames.iter_mut().map(|frames| &mut frames[..]).collect();
        if let Err(error) = store.read_stored(records, buffers, Wait::Yes) {
            let files = self.keys.get(key);
            let named = files
                .is_some_and(|files| pool::tree_of(files) == *tree && !self.has_damaged(files))
                && self.unnamed.get(tree).is_none_or(|at| at < begun);
            return match named {
                true => Err(format!("reading {key:?} where it was found to lie: {error}")),
                false => Ok(()),
            };
        }
        let mut decoder = FrameDecoder::new().map_err(failed("a decoder"))?;
        for ((digest, location), frames) in records.iter().zip(&frames) {
            let mut plain = Vec::new();
            decoder
                .append(&mut plain, frames, location.plain as usize)
                .map_err(failed("decoding a chunk"))?;
            if Digest::of(&plain) != *digest {
                return Err(format!("chunk {digest} of {key:?} is another"));
            }
        }
        Ok(())
    }
}
