//! A store, or two that share everything, beside a model of what it has to hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use castore::bytes::Wait;
use castore::fsck::{CheckOptions, Depth};
use castore::gc::{Live, Pace, SweepOptions};
use castore::pack::FrameDecoder;
use castore::tree::Node;
use castore::{
    Assembly, AssemblyError, Cause, CommitError, Digest, Expected, Holder, Kind, Location, Store,
    StoreError, Transaction, Upload, Uploaded,
};

use crate::ops::{Dice, Op, What};
use crate::pool::{self, POOL};
use crate::site::Site;

/// What should not be.
pub type Fault = String;

const KEYS: u16 = 12;
const UPLOADS: usize = 4;
const PUSHES: usize = 2;
/// Facts that are marked in one step.
const MARKED: usize = 2;

/// What happened in a run, to tell whether it went anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub commits: u64,
    pub refused: u64,
    pub swept: u64,
    pub moved: u64,
    pub stopped: u64,
    pub waiting: u64,
    pub held: u64,
    pub crashes: u64,
    pub remade: u64,
    pub read: u64,
}

/// A file of an upload that was begun.
struct Rest {
    file: usize,
    from: usize,
}

enum Sending {
    /// With the step at which each chunk first came.
    Underway { upload: Upload, files: Vec<usize>, rest: Option<Rest>, came: HashMap<Digest, u64> },
    /// With the epoch in which it was secured, if it was.
    Ready { uploaded: Uploaded, files: Vec<usize>, secured: Option<u64> },
}

struct Pushing {
    assembly: Assembly,
    files: Vec<usize>,
}

struct Referring {
    key: Vec<u8>,
    /// The epoch in which the tree was secured, if it was.
    secured: Option<u64>,
    tree: Digest,
    files: Vec<usize>,
    epoch: u64,
    begun: u64,
}

struct Looked {
    key: Vec<u8>,
    tree: Digest,
    begun: u64,
    records: Vec<(Digest, Location)>,
}

/// A process. What it holds ends before its store.
struct Member {
    uploads: Vec<Option<(Sending, u64)>>,
    pushes: Vec<Option<Pushing>>,
    refers: Vec<Option<Referring>>,
    looked: Vec<Option<Looked>>,
    live: Option<Marking>,
    store: Arc<Store>,
}

/// What the collector has marked.
struct Marking {
    live: Live,
    after: Vec<u8>,
    done: bool,
}

/// One of the places that satisfy this.
fn choose<T>(places: &[T], number: u16, fit: impl Fn(&T) -> bool) -> Option<usize> {
    let fitting: Vec<usize> = (0..places.len()).filter(|at| fit(&places[*at])).collect();
    fitting.get(usize::from(number) % fitting.len().max(1)).copied()
}

fn is_underway(place: &Option<(Sending, u64)>) -> bool {
    matches!(place, Some((Sending::Underway { .. }, _)))
}

fn is_ready(place: &Option<(Sending, u64)>) -> bool {
    matches!(place, Some((Sending::Ready { .. }, _)))
}

fn none<T>(count: usize) -> Vec<Option<T>> {
    (0..count).map(|_| None).collect()
}

impl Member {
    fn new(store: Arc<Store>) -> Self {
        let (uploads, pushes) = (none(UPLOADS), none(PUSHES));
        Self { uploads, pushes, refers: none(2), looked: none(2), live: None, store }
    }

    /// Everything that is under way is given up.
    fn give_up(&mut self) {
        *self = Self::new(self.store.clone());
    }
}

pub struct World {
    members: Vec<Option<Member>>,
    site: Site,
    /// What is committed.
    keys: BTreeMap<Vec<u8>, Vec<usize>>,
    /// When a tree was last named by nothing.
    unnamed: HashMap<Digest, u64>,
    /// Chunks that were found damaged, and when, and did not come again.
    damaged: HashMap<Digest, u64>,
    /// Those among them that came again, to which process, and are not durable yet where packs are objects.
    mending: HashMap<Digest, usize>,
    /// Chunks that were stored because somebody sent them.
    sent: HashSet<Digest>,
    /// The step of the last sweep that removed a pack.
    swept: u64,
    /// Whether a chunk was ever found damaged.
    ever_damaged: bool,
    step: u64,
    careful: bool,
    dice: Dice,
    pub tally: Tally,
}

fn holder() -> Holder {
    Holder::named(b"somebody")
}

/// Names what was tried.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> Fault {
    move |error| format!("{what}: {error}")
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Missing { .. }) || error.cause() == Cause::Lost
}

fn key(number: u16) -> Vec<u8> {
    vec![b'k', b'a' + (number % KEYS) as u8]
}

impl World {
    /// An empty store, or two. When `careful`, everything is read after every step.
    pub fn new(site: Site, careful: bool) -> Self {
        let open = |member| Some(Member::new(site.open(member).unwrap()));
        let members = (0..site.members()).map(open).collect();
        Self {
            members,
            site,
            keys: BTreeMap::new(),
            unnamed: HashMap::new(),
            damaged: HashMap::new(),
            mending: HashMap::new(),
            sent: HashSet::new(),
            swept: 0,
            ever_damaged: false,
            step: 0,
            careful,
            dice: Dice(1),
            tally: Tally::default(),
        }
    }

    fn member(&mut self, member: usize) -> Result<&mut Member, Fault> {
        self.members[member].as_mut().ok_or_else(|| "the store is not open".to_owned())
    }

    fn store(&self, member: usize) -> Result<Arc<Store>, Fault> {
        let member = self.members[member].as_ref();
        member.map(|member| member.store.clone()).ok_or_else(|| "the store is not open".to_owned())
    }

    /// Does what the operation says, and looks whether all is well.
    pub fn step(&mut self, op: &Op) -> Result<(), Fault> {
        self.step += 1;
        let member = usize::from(op.member) % self.members.len();
        let all = self.act(member, op)?;
        if all || self.careful {
            return self.verify_all();
        }
        let keys = u64::from(KEYS);
        let some = [self.dice.below(keys) as u16, self.dice.below(keys) as u16];
        let at = self.dice.below(self.members.len() as u64) as usize;
        some.iter().try_for_each(|number| self.verify(at, &key(*number)))
    }

    /// Whether everything is to be looked at afterwards.
    fn act(&mut self, member: usize, op: &Op) -> Result<bool, Fault> {
        let (a, b) = (op.a, op.b);
        match op.what {
            What::Begin => self.begin(member, a)?,
            What::File => self.file(member, a, b)?,
            What::Finish => self.finish(member, a)?,
            What::Commit => self.commit(member, a, b)?,
            What::Drop => self.member(member)?.uploads[usize::from(a) % UPLOADS] = None,
            What::Send => self.send(member, pool::pick(a), b)?,
            What::Assemble => self.assemble(member, a, b)?,
            What::Publish => self.publish(member, a, b)?,
            What::Refer => self.refer(member, a, b)?,
            What::Follow => self.follow(member, a, b)?,
            What::Remove => self.remove(member, &key(a))?,
            What::Forget => {
                let refers = &self.member(member)?.refers;
                let key = choose(refers, a, Option::is_some).and_then(|at| refers[at].as_ref());
                if let Some(key) = key.map(|refer| refer.key.clone()) {
                    self.remove(member, &key)?;
                }
            }
            What::Lookup => self.lookup(member, a, b)?,
            What::Reread => self.reread(member, a)?,
            What::Seal => {
                self.store(member)?.seal_open().map_err(failed("sealing"))?;
                // An index in a folder may forget what was not committed.
                if self.site.is_shared() {
                    self.durable(member);
                }
            }
            What::Live => {
                let live = self.store(member)?.live().map_err(failed("beginning to mark"))?;
                // One process at a time collects.
                self.members.iter_mut().flatten().for_each(|member| member.live = None);
                let marking = Marking { live, after: Vec::new(), done: false };
                self.member(member)?.live = Some(marking);
            }
            What::Mark => self.mark(MARKED)?,
            What::MarkAll => self.mark(usize::MAX)?,
            What::Condemn => self.condemn(a)?,
            What::Sweep => return self.sweep(a, b),
            What::Collect => {
                self.collect(member)?;
                return Ok(true);
            }
            What::Damage => self.damage(member, a, b)?,
            What::Crash => {
                self.crash(member, a)?;
                return Ok(true);
            }
            What::Restart => {
                self.restart(member)?;
                return Ok(true);
            }
            What::Glance => {
                self.store(member)?.refresh_epoch().map_err(failed("looking at the epoch"))?;
            }
            What::KeepUp => {
                self.store(member)?.keep_up().map_err(failed("keeping up"))?;
            }
        }
        Ok(false)
    }

    fn begin(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        let (step, begun) = (self.step, self.store(member)?.upload());
        let mut upload = begun.map_err(failed("beginning an upload"))?.held_by(holder());
        upload.enter_directory(b"").map_err(failed("beginning a tree"))?;
        let (files, rest, came) = (Vec::new(), None, HashMap::new());
        let sending = Sending::Underway { upload, files, rest, came };
        let uploads = &mut self.member(member)?.uploads;
        let at = choose(uploads, a, Option::is_none).unwrap_or(usize::from(a) % UPLOADS);
        uploads[at] = Some((sending, step));
        Ok(())
    }

    fn file(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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

    fn finish(&mut self, member: usize, a: u16) -> Result<(), Fault> {
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
    fn mend(&mut self, member: usize, digest: &Digest) {
        if !self.damaged.contains_key(digest) {
        } else if self.site.is_local() {
            self.damaged.remove(digest);
        } else {
            self.mending.insert(*digest, member);
        }
    }

    /// All that a process has taken in is durable.
    fn durable(&mut self, member: usize) {
        for (digest, _) in self.mending.extract_if(|_, at| *at == member) {
            self.damaged.remove(&digest);
        }
    }

    fn commit(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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

    fn has_damaged(&self, files: &[usize]) -> bool {
        !self.damaged.is_empty()
            && pool::chunks(files).iter().any(|digest| self.damaged.contains_key(digest))
    }

    /// The key names these from now on.
    fn name(&mut self, member: usize, key: &[u8], files: Vec<usize>) {
        self.durable(member);
        self.tally.commits += 1;
        let before = self.keys.insert(key.to_vec(), files);
        self.forget(before);
    }

    /// Nothing names them any more, unless another key does.
    fn forget(&mut self, before: Option<Vec<usize>>) {
        if let Some(before) = before
            && !self.keys.values().any(|files| *files == before)
        {
            self.unnamed.insert(pool::tree_of(&before), self.step);
        }
    }

    /// Takes in the records of some chunks of a file, or of those that are asked for.
    fn take(&mut self, member: usize, wanted: &[(Digest, &[u8])]) -> Result<(), Fault> {
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

    fn send(&mut self, member: usize, file: usize, b: u16) -> Result<(), Fault> {
        let records = POOL[file].records.iter().enumerate();
        let some = records.filter(|(at, _)| b >> (at % 8) & 1 == 0);
        let some: Vec<(Digest, &[u8])> =
            some.map(|(_, (digest, record))| (*digest, &record[..])).collect();
        self.take(member, &some)
    }

    fn assemble(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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

    fn publish(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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
                assembly.finish(holder())
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

    fn refer(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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

    fn follow(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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
    fn some_key(&self, number: u16) -> Option<Vec<u8>> {
        self.keys.keys().nth(usize::from(number) % self.keys.len().max(1)).cloned()
    }

    fn remove(&mut self, member: usize, key: &[u8]) -> Result<(), Fault> {
        let mut transaction = Transaction::default();
        transaction.remove(key.to_vec(), Expected::Anything);
        self.store(member)?.commit(transaction).map_err(failed("removing a key"))?;
        let before = self.keys.remove(key);
        self.forget(before);
        Ok(())
    }

    fn lookup(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
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

    fn reread(&mut self, member: usize, a: u16) -> Result<(), Fault> {
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

    /// Marks so many facts.
    fn mark(&mut self, count: usize) -> Result<(), Fault> {
        let Some(member) = self.members.iter_mut().flatten().find(|member| member.live.is_some())
        else {
            return Ok(());
        };
        let (store, Some(marking)) = (member.store.clone(), &mut member.live) else {
            return Ok(());
        };
        let count = count.min(1000);
        let facts = store.scan_facts(b"k", Some(&marking.after), count);
        let facts = facts.map_err(failed("reading facts"))?;
        marking.done |= facts.len() < count;
        for (key, fact) in facts {
            let tree = Digest::from_slice(&fact.value).ok_or("a fact is not a digest")?;
            marking.live.tree(&tree, &[holder()]).map_err(failed("marking a tree"))?;
            marking.after = key;
        }
        if marking.live.lost > 0 {
            return Err(format!("{} trees or lists that are needed are lost", marking.live.lost));
        }
        Ok(())
    }

    /// The process that has marked everything.
    fn collector(&self) -> Option<&Member> {
        let marked = |member: &&Member| member.live.as_ref().is_some_and(|live| live.done);
        self.members.iter().flatten().find(marked)
    }

    fn condemn(&mut self, a: u16) -> Result<(), Fault> {
        let Some(member) = self.collector() else { return Ok(()) };
        let Some(marking) = &member.live else { return Ok(()) };
        let share = [0.0, 0.05, 0.3, 1.0][usize::from(a) % 4];
        let plan = member.store.plan_packs(&marking.live, share).map_err(failed("planning"))?;
        member.store.condemn_planned(&plan).map_err(failed("condemning"))?;
        Ok(())
    }

    /// Sweeps, with a grace period now and then; or stops after some packs.
    fn sweep(&mut self, a: u16, b: u16) -> Result<bool, Fault> {
        let idle = |member: &Option<Member>| member.as_ref().is_some_and(|it| it.live.is_none());
        if self.site.is_shared()
            && a.is_multiple_of(2)
            && let Some(other) = self.members.iter().position(idle)
        {
            self.rest(other)?;
        }
        let Some(member) = self.collector() else { return Ok(false) };
        let Some(marking) = &member.live else { return Ok(false) };
        let grace = Duration::from_secs(if a.is_multiple_of(5) { 3600 } else { 0 });
        let stop = AtomicBool::new(false);
        let stop_at = (b.is_multiple_of(3)).then_some(u64::from(b / 3 % 4));
        let mut progress = |done, _| {
            if stop_at == Some(done) {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let pace = Pace::new(None, Some(&stop));
        let options = SweepOptions { grace, pace, progress: &mut progress };
        let swept = member.store.sweep(&marking.live, options).map_err(failed("sweeping"))?;
        self.tally.swept += swept.packs;
        self.tally.moved += swept.moved;
        self.tally.waiting += swept.waiting;
        self.tally.held += swept.held_by_uploads;
        self.tally.stopped += u64::from(stop.load(Ordering::Relaxed));
        if swept.damaged > 0 {
            return Err(format!("{} damaged records were met", swept.damaged));
        }
        if swept.packs > 0 {
            self.swept = self.step;
        }
        Ok(true)
    }

    /// What the process has under way is given up, and the others see it: otherwise the collector waits
    /// for that for minutes.
    fn rest(&mut self, member: usize) -> Result<(), Fault> {
        self.member(member)?.give_up();
        self.store(member)?.keep_up().map_err(failed("keeping up"))
    }

    fn collect(&mut self, member: usize) -> Result<(), Fault> {
        if self.site.is_shared() {
            (0..self.members.len()).try_for_each(|member| self.rest(member))?;
        }
        let op = |what| Op { what, member: member as u8, a: 4, b: 1 };
        let store = self.store(member)?;
        store.keep_up().map_err(failed("keeping up"))?;
        for what in [What::Seal, What::Live, What::MarkAll, What::Condemn] {
            self.act(member, &op(what))?;
        }
        for what in [What::Live, What::MarkAll, What::Sweep] {
            self.act(member, &op(what))?;
        }
        Ok(())
    }

    fn damage(&mut self, member: usize, a: u16, b: u16) -> Result<(), Fault> {
        let records = &POOL[pool::pick(a)].records;
        let Some((digest, _)) = records.get(usize::from(b) % records.len().max(1)) else {
            return Ok(());
        };
        let store = self.store(member)?;
        let found = store.locate(Kind::Chunk, digest).map_err(failed("locating a chunk"))?;
        let Some(location) = found else { return Ok(()) };
        store.mark_damaged(digest, &location).map_err(failed("noting that a chunk is damaged"))?;
        self.damaged.insert(*digest, self.step);
        self.mending.remove(digest);
        self.ever_damaged = true;
        self.sent.remove(digest);
        for member in self.members.iter().flatten() {
            member.store.keep_up().map_err(failed("keeping up"))?;
        }
        Ok(())
    }

    fn crash(&mut self, member: usize, a: u16) -> Result<(), Fault> {
        if self.site.is_shared() && !a.is_multiple_of(64) {
            self.rest(member)?;
        }
        let mut epoch = self.store(member)?.epoch();
        self.site.kill(member);
        self.mending.retain(|_, at| *at != member);
        self.sent.clear();
        if self.site.is_local() && a.is_multiple_of(3) {
            self.site.lose_index(member);
            epoch = 0;
        }
        self.tally.crashes += 1;
        self.open_again(member, epoch)?;
        self.check(member)
    }

    /// What the process still held is dropped only now: none of it may matter.
    fn open_again(&mut self, member: usize, epoch: u64) -> Result<(), Fault> {
        let old = self.members[member].take();
        let store = self.site.open(member).map_err(failed("opening the store again"))?;
        drop(old);
        if store.epoch() < epoch {
            // The engine did not open what it had written; the index was made anew from the packs.
            self.sent.clear();
            self.tally.remade += 1;
        }
        self.members[member] = Some(Member::new(store));
        Ok(())
    }

    fn restart(&mut self, member: usize) -> Result<(), Fault> {
        if self.site.is_shared() {
            self.rest(member)?;
        }
        let epoch = self.store(member)?.epoch();
        self.members[member] = None;
        self.open_again(member, epoch)
    }

    /// What an operator would find out.
    fn check(&self, member: usize) -> Result<(), Fault> {
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

    fn verify_all(&mut self) -> Result<(), Fault> {
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
    fn verify(&mut self, member: usize, key: &[u8]) -> Result<(), Fault> {
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

use crate::pool::Content;

/// Writes what is left of a file. Whether there was any.
fn end_file(upload: &mut Upload, rest: &mut Option<Rest>) -> Result<bool, Fault> {
    let Some(Rest { file, from }) = rest.take() else { return Ok(false) };
    upload.write(&POOL[file].bytes[from..]).map_err(failed("writing a file"))?;
    Ok(true)
}

fn put(key: &[u8], value: &[u8]) -> Transaction {
    let mut transaction = Transaction::default();
    transaction.put(key.to_vec(), value.to_vec(), Expected::Anything);
    transaction
}

/// Commits what was secured in an epoch. False when that is over, or it was not secured.
fn commit_in(
    store: &Store,
    secured: Option<u64>,
    mut transaction: Transaction,
) -> Result<bool, Fault> {
    let Some(epoch) = secured else { return Ok(false) };
    transaction.secured(epoch);
    match store.commit(transaction) {
        Ok(_) => Ok(true),
        Err(CommitError::Outdated) => {
            store.refresh_epoch().map_err(failed("looking at the epoch"))?;
            Ok(false)
        }
        Err(error) => Err(format!("committing what was secured: {error}")),
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
