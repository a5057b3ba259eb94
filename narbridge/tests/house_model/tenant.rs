//! What a cache has to hold, and what the documents say of what becomes of it. It is as simple as it can be:
//! there are few paths, and time for every one of them to be looked at for every other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use castore::Digest;
use narbridge::cache::CacheChanges;
use narbridge::retention::{Defaults, Rules};

use crate::pool::NARS;

pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// How long a NAR waits for its narinfo, and what was sent for its publication.
const WAITS: u64 = 15 * MINUTE;
/// For so long what was used goes neither for its age nor for space, unless the grace period is shorter.
const FRESH: u64 = HOUR;
/// For so long at least after a restart, which learns late when somebody was heard of.
const WAITS_RESTARTED: u64 = 5 * MINUTE;

/// Paths by their numbers.
pub type Numbers = BTreeSet<usize>;

/// A path.
#[derive(Clone, Debug)]
pub struct Stored {
    pub nar: usize,
    pub references: Vec<usize>,
    pub uploaded: u64,
    /// When it was last used, an upload being none.
    pub used: Option<u64>,
    /// The last use that no kill can undo.
    pub written: Option<u64>,
    /// Length of its NAR as zstd.
    pub size: u64,
}

/// A NAR that is to be had by a name, plain or as gzip.
#[derive(Clone, Debug)]
pub struct Kept {
    /// When it came, or was named by a path.
    pub since: u64,
    /// Whether no narinfo has come since.
    pub awaits: bool,
}

/// One revision of a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub path: usize,
    pub until: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Pinned {
    pub keep: usize,
    /// Newest first.
    pub revisions: Vec<Revision>,
}

/// What clients have sent and not published.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// With the time at which each chunk came.
    pub chunks: HashMap<Digest, u64>,
    pub heard: u64,
    pub restarted: bool,
}

impl Sent {
    /// Somebody sends more. What has lapsed does not come back with it.
    pub fn hear(&mut self, now: u64) {
        let kept: BTreeSet<Digest> = self.kept(now).copied().collect();
        self.chunks.retain(|chunk, _| kept.contains(chunk));
        (self.heard, self.restarted) = (now, false);
    }

    /// What has to be there still.
    pub fn kept(&self, now: u64) -> impl Iterator<Item = &Digest> {
        let waits = if self.restarted { WAITS_RESTARTED } else { WAITS };
        let heard = now < self.heard + waits;
        let kept = self.chunks.iter().filter(move |(_, came)| heard && now < **came + DAY);
        kept.map(|(digest, _)| digest)
    }
}

/// A cache.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    pub paths: BTreeMap<usize, Stored>,
    /// By the number of the NAR, and whether it came as gzip.
    pub nars: BTreeMap<(usize, bool), Kept>,
    pub pins: BTreeMap<usize, Pinned>,
    pub rules: Rules,
    pub sent: Sent,
    /// Until when its keys sign.
    pub keys: Vec<Option<u64>>,
    pub destroyed: Option<u64>,
    /// When it was restored last.
    pub restored: u64,
    /// What was left by a collection that began to take all of it, or was about to, and did not come to its
    /// end.
    pub burial: Option<Burial>,
}

/// How much of a destroyed cache has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burial {
    /// Nothing yet.
    Nothing,
    /// Some of it, or all.
    Some,
}

/// What a collection has to make of a cache.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// All of it goes, since it was destroyed.
    pub buried: bool,
    /// Whether nothing goes by rules, and nothing is said of it.
    pub unruled: bool,
    pub max_size: Option<u64>,
    /// What pins keep.
    pub pinned: Numbers,
    pub unused: Numbers,
    pub old: Numbers,
    /// When each path was last used, itself or by what refers to it.
    pub used: BTreeMap<usize, u64>,
    /// What was used since then stays, unless it is unused for too long all the same.
    pub fresh: u64,
}

impl Pinned {
    /// A path is pinned: see docs/pins.md, Revisions.
    pub fn add(&mut self, path: usize, keep: Option<usize>, until: Option<u64>, now: u64) {
        self.keep = keep.unwrap_or(self.keep.max(1));
        let stays = |revision: &Revision| revision.path != path && revision.is_live(now);
        let before: Vec<Revision> = self.revisions.drain(..).filter(stays).collect();
        self.revisions = vec![Revision { path, until }];
        self.revisions.extend(before.into_iter().take(self.keep - 1));
    }
}

impl Revision {
    pub fn is_live(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Tenant {
    /// What a path refers to itself and is there, without itself.
    pub fn references(&self, path: usize) -> impl Iterator<Item = usize> {
        let to = self.paths.get(&path).map(|stored| &stored.references[..]).unwrap_or_default();
        to.iter().copied().filter(move |to| *to != path && self.paths.contains_key(to))
    }

    /// What refers to a path itself, without itself.
    pub fn referrers(&self, path: usize) -> impl Iterator<Item = usize> {
        let refers = move |by: &usize| self.references(*by).any(|to| to == path);
        self.paths.keys().copied().filter(refers)
    }

    /// These, as far as they are there, and all that they refer to, directly or not.
    pub fn closure(&self, of: impl IntoIterator<Item = usize>) -> Numbers {
        self.reach(of, |path| self.references(path).collect())
    }

    /// These, as far as they are there, and all that refers to them, directly or not.
    pub fn with_referrers(&self, of: impl IntoIterator<Item = usize>) -> Numbers {
        self.reach(of, |path| self.referrers(path).collect())
    }

    /// A path, and those that refer to it to which it refers, directly or not: they come and go together.
    pub fn circle(&self, path: usize) -> Numbers {
        let (to, by) = (self.closure([path]), self.with_referrers([path]));
        to.intersection(&by).copied().collect()
    }

    fn reach(
        &self,
        of: impl IntoIterator<Item = usize>,
        next: impl Fn(usize) -> Vec<usize>,
    ) -> Numbers {
        let mut open: Vec<usize> =
            of.into_iter().filter(|path| self.paths.contains_key(path)).collect();
        let mut reached = Numbers::new();
        while let Some(path) = open.pop() {
            if reached.insert(path) {
                open.extend(next(path));
            }
        }
        reached
    }

    /// The paths that pins name and keep.
    pub fn roots(&self, now: u64) -> Numbers {
        let revisions = self.pins.values().flat_map(|pin| &pin.revisions);
        revisions.filter(|revision| revision.is_live(now)).map(|revision| revision.path).collect()
    }

    /// When a path was last used, uploads being uses, as far as that is known since `since`.
    pub fn last_use(&self, path: usize, since: u64) -> u64 {
        let stored = &self.paths[&path];
        stored.used.unwrap_or_default().max(stored.uploaded).max(since).max(self.restored)
    }

    /// For each path the latest time of its own and of all that refers to it.
    fn latest(&self, time: impl Fn(usize) -> u64) -> BTreeMap<usize, u64> {
        let of = |path: usize| self.with_referrers([path]).into_iter().map(&time).max();
        self.paths.keys().map(|path| (*path, of(*path).unwrap_or_default())).collect()
    }

    /// What a collection has to make of it: see docs/caches.md, What is kept.
    pub fn fate(&self, defaults: &Defaults, since: u64, grace: u64, now: u64) -> Fate {
        if let Some(destroyed) = self.destroyed {
            let buried = destroyed + grace <= now;
            return Fate { buried, unruled: true, ..Fate::default() };
        }
        let retention = self.rules.retention.or(defaults.retention);
        let max_age = self.rules.max_age.or(defaults.max_age);
        let max_size = self.rules.max_size.or(defaults.max_size);
        let used = self.latest(|path| self.last_use(path, since));
        let uploaded = self.latest(|path| self.paths[&path].uploaded);
        let pinned = self.closure(self.roots(now));
        let is_over = |time: u64, span: Option<u64>| span.is_some_and(|span| now > time + span);
        let free = || self.paths.keys().copied().filter(|path| !pinned.contains(path));
        let unused: Numbers = free().filter(|path| is_over(used[path], retention)).collect();
        let fresh = now - grace.min(FRESH);
        let may_go = |path: &usize| !unused.contains(path) && used[path] < fresh;
        let old = free().filter(|path| may_go(path) && is_over(uploaded[path], max_age)).collect();
        let unruled = retention.is_none() && max_age.is_none() && max_size.is_none();
        Fate { buried: false, unruled, max_size, pinned, unused, old, used, fresh }
    }

    /// Whether a NAR has to be there after a collection, and whether it may be: see docs/gc.md.
    pub fn nar_stays(&self, nar: (usize, bool), grace: u64, now: u64) -> (bool, bool) {
        let kept = &self.nars[&nar];
        let is_made = self.paths.values().any(|stored| stored.nar == nar.0);
        let over = |span: u64| kept.since + span <= now;
        // One that came as gzip is not told from one that is awaited while the plain one is.
        let may_await =
            kept.awaits || nar.1 && self.nars.get(&(nar.0, false)).is_none_or(|plain| plain.awaits);
        let has_to = is_made || !over(grace) || kept.awaits && !over(WAITS);
        (has_to, has_to || may_await && !over(WAITS))
    }

    /// A NAR has come.
    pub fn upload(&mut self, nar: usize, gzip: bool, now: u64) {
        self.nars.insert((nar, gzip), Kept { since: now, awaits: true });
    }

    /// A path was published. The NARs that it is made from are awaited no more.
    pub fn publish(&mut self, path: usize, stored: Stored) {
        let (nar, now) = (stored.nar, stored.uploaded);
        let before = self.paths.insert(path, stored);
        if let (Some(before), Some(stored)) = (before, self.paths.get_mut(&path)) {
            (stored.used, stored.written) = (before.used, before.written);
        }
        // It relies on what it refers to.
        let references = self.paths[&path].references.clone();
        references.into_iter().for_each(|to| self.note(to, now));
        self.nars.insert((nar, false), Kept { since: now, awaits: false });
        if let Some(kept) = self.nars.get_mut(&(nar, true)) {
            kept.awaits = false;
        }
        // They are the path's from now on.
        self.sent.chunks.retain(|chunk, _| NARS[nar].chunks().all(|of| of != *chunk));
    }

    /// Somebody has used a path.
    pub fn note(&mut self, path: usize, now: u64) {
        if let Some(stored) = self.paths.get_mut(&path) {
            stored.used = stored.used.max(Some(now));
        }
    }

    /// How many bytes these paths take.
    pub fn size<'a>(&self, of: impl IntoIterator<Item = &'a usize>) -> u64 {
        of.into_iter().map(|path| self.paths[path].size).sum()
    }

    pub fn configure(&mut self, changes: &CacheChanges) {
        let Rules { retention, max_age, max_size } = &mut self.rules;
        *retention = changes.retention.unwrap_or(*retention);
        *max_age = changes.max_age.unwrap_or(*max_age);
        *max_size = changes.max_size.unwrap_or(*max_size);
    }
}
