//! A store, or two that share everything, beside a model of what it has to hold.

mod collector;
mod crash;
mod pushes;
mod readers;
mod uploads;
mod verify;

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

use crate::model::op::{Dice, Op};
use crate::ops::What;
use crate::pool::{self, Content, POOL};
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
    Underway {
        upload: Box<Upload>,
        files: Vec<usize>,
        rest: Option<Rest>,
        came: HashMap<Digest, u64>,
    },
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
    /// Everything that was sent to the process that runs now and is in no tree that was pushed. Once that is
    /// nothing, what was sent need not be kept.
    unpublished: HashSet<Digest>,
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
            unpublished: HashSet::new(),
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

    fn remove(&mut self, member: usize, key: &[u8]) -> Result<(), Fault> {
        let mut transaction = Transaction::default();
        transaction.remove(key.to_vec(), Expected::Anything);
        self.store(member)?.commit(transaction).map_err(failed("removing a key"))?;
        let before = self.keys.remove(key);
        self.forget(before);
        Ok(())
    }
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
