//! The inodes that the kernel knows.
//!
//! A number is given out once and never again, so that a program which remembers what it saw under
//! one is not deceived; and numbers grow from 2, since 32-bit programs cannot read long ones. An
//! inode is here for as long as the kernel holds a reference, which it counts up with every entry
//! it is told and returns with a forget.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::inode::{Identity, Inode, ROOT};

/// All known inodes.
#[derive(Debug)]
pub struct Table {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    next: u64,
    inodes: Sharded<Held>,
    /// From hashed identities to numbers. What hashes alike is not found by its identity, and at
    /// worst gets a number of its own.
    numbers: Sharded<u64>,
}

#[derive(Debug)]
struct Held {
    inode: Inode,
    references: u64,
}

impl Default for Table {
    fn default() -> Self {
        let known =
            Known { next: ROOT + 1, inodes: Sharded::default(), numbers: Sharded::default() };
        Self { hasher: RandomState::new(), known: Mutex::new(known) }
    }
}

impl Table {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing here panics half way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, identity: Identity) -> u64 {
        self.hasher.hash_one(identity)
    }

    /// A number that is not given to anything else.
    pub fn reserve(&self) -> u64 {
        self.known().take_number()
    }

    /// The inode's number, with one more reference to it.
    pub fn refer(&self, inode: Inode) -> u64 {
        let identity = inode.identity();
        let hash = self.hash(identity);
        let mut known = self.known();
        if let Some(ino) = known.numbers.get(hash).copied()
            && let Some(held) = known.inodes.get_mut(ino)
            && held.inode.identity() == identity
        {
            held.references += 1;
            return ino;
        }
        let ino = known.take_number();
        known.inodes.insert(ino, Held { inode, references: 1 });
        known.numbers.insert_new(hash, ino);
        ino
    }

    /// One more reference to an inode that has a reserved number.
    pub fn refer_as(&self, ino: u64, inode: Inode) {
        let mut known = self.known();
        match known.inodes.get_mut(ino) {
            Some(held) => held.references += 1,
            None => known.inodes.insert(ino, Held { inode, references: 1 }),
        }
    }

    /// Takes references back, and the inode away with its last.
    pub fn forget(&self, ino: u64, references: u64) {
        let mut known = self.known();
        let Some(held) = known.inodes.get_mut(ino) else { return };
        held.references = held.references.saturating_sub(references);
        if held.references > 0 {
            return;
        }
        if let Some(held) = known.inodes.remove(ino) {
            let hash = self.hash(held.inode.identity());
            if known.numbers.get(hash) == Some(&ino) {
                known.numbers.remove(hash);
            }
            drop(known);
            // The last reference to a path may free a large tree: not under the lock.
            drop(held);
        }
    }

    /// What a number stands for.
    pub fn get(&self, ino: u64) -> Option<Inode> {
        if ino == ROOT {
            return Some(Inode::Root);
        }
        self.known().inodes.get(ino).map(|held| held.inode.clone())
    }

    /// The number of an inode that the kernel knows.
    pub fn find(&self, identity: Identity) -> Option<(u64, Inode)> {
        let known = self.known();
        let ino = *known.numbers.get(self.hash(identity))?;
        let held = known.inodes.get(ino)?;
        (held.inode.identity() == identity).then(|| (ino, held.inode.clone()))
    }

    /// Notes that the kernel was given a file's bytes, and returns in which epoch it had them
    /// before.
    pub fn give(&self, ino: u64, epoch: u16) -> Option<u16> {
        match &mut self.known().inodes.get_mut(ino)?.inode {
            Inode::File { given, .. } => Some(std::mem::replace(given, epoch)),
            _ => None,
        }
    }

    /// How many inodes there are, but for the root.
    pub fn len(&self) -> usize {
        self.known().inodes.len()
    }
}

impl Known {
    fn take_number(&mut self) -> u64 {
        let ino = self.next;
        self.next += 1;
        ino
    }
}

/// A map in many, so that growing never holds two copies of everything.
#[derive(Debug)]
struct Sharded<V>([HashMap<u64, V>; SHARDS]);

const SHARDS: usize = 32;

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }
}

impl<V> Sharded<V> {
    fn shard(&self, key: u64) -> &HashMap<u64, V> {
        &self.0[key as usize % SHARDS]
    }

    fn shard_mut(&mut self, key: u64) -> &mut HashMap<u64, V> {
        &mut self.0[key as usize % SHARDS]
    }

    fn get(&self, key: u64) -> Option<&V> {
        self.shard(key).get(&key)
    }

    fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        self.shard_mut(key).get_mut(&key)
    }

    fn insert(&mut self, key: u64, value: V) {
        self.shard_mut(key).insert(key, value);
    }

    fn insert_new(&mut self, key: u64, value: V) {
        if let Entry::Vacant(vacant) = self.shard_mut(key).entry(key) {
            vacant.insert(value);
        }
    }

    fn remove(&mut self, key: u64) -> Option<V> {
        let shard = self.shard_mut(key);
        let removed = shard.remove(&key);
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(shard.len() * 2);
        }
        removed
    }

    fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }
}
