//! Trees that are uploaded, file by file, and committed.

use super::*;

impl World {
    pub(super) fn begin(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        let (step, begun) = (self.step, self.store(member)?.upload());
        let mut upload = begun.map_err(failed("beginning an upload"))?.held_by(holder());
        upload.enter_directory(b"").map_err(failed("beginning a tree"))?;
        let (files, rest, came) = (Vec::new(), None, HashMap::new());
        let upload = Box::new(upload);
        let sending = Sending::Underway { upload, files, rest, came };
        let uploads = &mut self.member(member)?.uploads;
        let at = choose(uploads, a, Option::is_none).unwrap_or(usize::from(a) % UPLOADS);
        uploads[at] = Some((sending, step));
        Ok(())
    }

    pub(super) fn file(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let step = self.step;
        let uploads = &mut self.member(member)?.uploads;
        let Some(at) = choose(uploads, a, is_underway) else { return Ok(()) };
        let Some((Sending::Underway { upload, files, rest, came }, _)) = &mut uploads[at] else {
            return Ok(());
        };
        if end_file(upload, rest)? {
            return Ok(());
        }
        if files.len() > 4 {
            return Ok(());
        }
        let file = pool::pick(b);
        let content = &POOL[file];
        let name = pool::name(files.len());
        upload
            .start_file(name.as_bytes(), false, content.blob.size)
            .map_err(failed("starting a file"))?;
        for (digest, _) in &content.records {
            came.entry(*digest).or_insert(step);
        }
        files.push(file);
        *rest = (content.blob.size > 0).then_some(Rest { file, from: 0 });
        match rest {
            Some(rest) if b.is_multiple_of(4) => {
                let half = content.bytes.len() / 2;
                rest.from = half;
                upload.write(&content.bytes[..half]).map_err(failed("writing half a file"))
            }
            _ => end_file(upload, rest).map(drop),
        }
    }

    pub(super) fn finish(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        let uploads = &mut self.member(member)?.uploads;
        let Some(at) = choose(uploads, a, is_underway) else { return Ok(()) };
        let slot = &mut uploads[at];
        let Some((Sending::Underway { mut upload, files, mut rest, came }, begun)) = slot.take()
        else {
            return Ok(());
        };
        end_file(&mut upload, &mut rest)?;
        upload.leave_directory().map_err(failed("leaving a tree"))?;
        let uploaded = upload.finish().map_err(failed("finishing an upload"))?;
        if uploaded.tree != pool::tree_of(&files) {
            return Err(format!("an upload of {files:?} has become {}", uploaded.tree));
        }
        *slot = Some((Sending::Ready { uploaded, files, secured: None }, begun));
        let damaged = self.damaged.iter();
        let came = damaged.filter(|(digest, since)| came.get(digest).is_some_and(|at| at > since));
        let came: Vec<Digest> = came.map(|(digest, _)| *digest).collect();
        came.iter().for_each(|digest| self.mend(member, digest));
        Ok(())
    }

    /// A chunk that may have been damaged has come again.
    pub(super) fn mend(&mut self, member: usize, digest: &Digest) {
        if !self.damaged.contains_key(digest) {
        } else if self.site.is_local() {
            self.damaged.remove(digest);
        } else {
            self.mending.insert(*digest, member);
        }
    }

    /// All that a process has taken in is durable.
    pub(super) fn durable(&mut self, member: usize) {
        for (digest, _) in self.mending.extract_if(|_, at| *at == member) {
            self.damaged.remove(&digest);
        }
    }

    pub(super) fn commit(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let store = self.store(member)?;
        let Some(at) = choose(&self.member(member)?.uploads, a, is_ready) else { return Ok(()) };
        let Some((Sending::Ready { uploaded, files, secured }, begun)) =
            self.member(member)?.uploads[at].take()
        else {
            return Ok(());
        };
        let (flight, files) = (&uploaded.flight, files.clone());
        let key = key(b);
        let value = uploaded.tree.as_bytes().to_vec();
        let transaction = || put(&key, &value);
        let (since, holder) = (flight.epoch(), Some(holder()));
        let (tree, flown) = (&uploaded.tree, Some(&**flight));
        if secured.is_none() && b.is_multiple_of(3) {
            // Others do something before it is committed.
            let secured = store.secure(tree, holder, since, flown);
            match secured {
                Err(error) if is_missing(&error) && self.has_damaged(&files) => {}
                secured => {
                    let secured = Some(secured.map_err(failed("securing an upload"))?);
                    let ready = Sending::Ready { uploaded, files, secured };
                    self.member(member)?.uploads[at] = Some((ready, begun));
                }
            }
            return Ok(());
        }
        let done = match commit_in(&store, secured, transaction())? {
            true => Ok(()),
            false => store.commit_secured(tree, holder, since, flown, transaction).map(drop),
        };
        match done {
            Ok(()) => self.name(member, &key, files.clone()),
            Err(error) if is_missing(&error) && self.has_damaged(&files) => self.tally.refused += 1,
            Err(error) => return Err(format!("committing an upload of {files:?}: {error}")),
        }
        if b.is_multiple_of(7) {
            let ready = Sending::Ready { uploaded, files, secured: None };
            self.member(member)?.uploads[at] = Some((ready, begun));
        }
        Ok(())
    }

    pub(super) fn has_damaged(&self, files: &[usize]) -> bool {
        !self.damaged.is_empty()
            && pool::chunks(files).iter().any(|digest| self.damaged.contains_key(digest))
    }
}

/// Writes what is left of a file. Whether there was any.
fn end_file(upload: &mut Upload, rest: &mut Option<Rest>) -> Result<bool, Fault> {
    let Some(Rest { file, from }) = rest.take() else { return Ok(false) };
    upload.write(&POOL[file].bytes[from..]).map_err(failed("writing a file"))?;
    Ok(true)
}
