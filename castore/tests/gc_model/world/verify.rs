//! Whether all is as it has to be.

use super::*;

impl World {
    /// What an operator would find out.
    pub(super) fn check(&self, member: usize) -> Result<(), Fault> {
        let (depth, threads, progress) = (Depth::Contents, 1, &mut |_| ());
        let options = CheckOptions { depth, threads, progress };
        let report = self.store(member)?.check(options).map_err(failed("checking the store"))?;
        let damaged = |problem: &castore::fsck::Problem| {
            // What is known to be damaged is not looked for.
            self.ever_damaged && problem.name() == "records-unlocated"
        };
        let problems: Vec<String> = report
            .problems
            .iter()
            .filter(|problem| !damaged(problem))
            .map(ToString::to_string)
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(format!("the check found {problems:?}")) }
    }

    pub(super) fn verify_all(&mut self) -> Result<(), Fault> {
        for member in 0..self.members.len() {
            for number in 0..KEYS {
                self.verify(member, &key(number))?;
            }
            let store = self.store(member)?;
            for digest in self.sent.iter().filter(|_| !self.site.is_shared()) {
                let held = store.held(&[holder()], digest).map_err(failed("asking for a chunk"))?;
                if held.is_none() {
                    let there = store.locate(Kind::Chunk, digest);
                    let there = there.map_err(failed("locating a chunk"))?;
                    let found = if there.is_some() { "only its claim is gone" } else { "gone" };
                    return Err(format!("chunk {digest} was sent and is not held: {found}"));
                }
            }
        }
        Ok(())
    }

    /// The key has what was committed, to the last byte; or is not there.
    pub(super) fn verify(&mut self, member: usize, key: &[u8]) -> Result<(), Fault> {
        let store = self.store(member)?;
        let fact = store.fact(key).map_err(failed("reading a fact"))?;
        let Some(files) = self.keys.get(key) else {
            return match fact {
                None => Ok(()),
                Some(_) => Err(format!("{key:?} was removed and is there")),
            };
        };
        let fact = fact.ok_or_else(|| format!("{key:?} was committed and is not there"))?;
        let digest = pool::tree_of(files);
        if fact.value != digest.as_bytes() {
            return Err(format!("{key:?} names another tree than was committed"));
        }
        self.tally.read += 1;
        match read(&store, &digest) {
            Err(_) if self.has_damaged(files) => Ok(()),
            Err(error) => Err(format!("reading {key:?}, {files:?}: {error}")),
            Ok(found) if found.iter().ne(files.iter().map(|file| &POOL[*file].bytes)) => {
                Err(format!("{key:?} has other bytes than were committed"))
            }
            Ok(_) if self.has_damaged(files) => Ok(()),
            Ok(_) => {
                for digest in pool::chunks(files) {
                    let held = store.held(&[holder()], &digest);
                    if held.map_err(failed("asking for a chunk"))?.is_none() {
                        return Err(format!("{key:?}: the claim to chunk {digest} is gone"));
                    }
                }
                Ok(())
            }
        }
    }

    /// Everything is removed, and collected: next to nothing is left.
    pub fn end(&mut self) -> Result<(), Fault> {
        for member in 0..self.members.len() {
            self.member(member)?.give_up();
            self.check(member)?;
        }
        self.verify_all()?;
        self.sent.clear();
        for number in 0..KEYS {
            self.remove(0, &key(number))?;
        }
        if !self.site.is_local() {
            // What was sent is kept for minutes.
            return self.collect(0);
        }
        self.members[0] = None;
        self.site.lose_index(0);
        self.open_again(0, 0)?;
        self.collect(0)?;
        self.collect(0)?;
        self.restart(0)?;
        self.check(0)?;
        self.members[0] = None;
        let (left, facts) = (self.site.bytes(), self.step + u64::from(KEYS));
        let most = 4096 + 400 * facts;
        if left > most {
            return Err(format!("{left} bytes are left, and at most {most} are needed"));
        }
        Ok(())
    }
}

/// The files of a tree, in order.
fn read(store: &Arc<Store>, digest: &Digest) -> Result<Vec<Vec<u8>>, StoreError> {
    let tree = store.tree(digest)?;
    let mut reader = store.reader()?;
    let mut files = Vec::new();
    let Node::Directory { digest, .. } = tree.root() else { return Ok(files) };
    for entry in tree.directory(digest)?.entries() {
        let Node::File { digest, size, .. } = &entry.node else { continue };
        let mut out = Vec::new();
        for chunk in store.chunks_of(&tree, digest, *size)? {
            reader.append_chunk(&chunk, &mut out)?;
        }
        files.push(out);
    }
    Ok(files)
}
