//! The paths of a lazy store: what is known of them, where that comes from, and what vouches for it.
//!
//! A path is looked for in memory, on disk, and at the source, which tells of its whole closure at
//! once. What is kept of the closure is judged when it is needed.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use castore::tree::{ChunkList, ChunkRef, Tree};
use castore::{Digest, Kind};
use granary_api::sync::{SyncPaths, SyncedPath};
use granary_client::migrate::Trust;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};

use crate::disk::{DiskCache, Infos, Verified};
use crate::flight::Flights;
use crate::profile::Recorder;
use crate::record;
use crate::source::{Keep, Seen, Source, SourceError, Whole};
use crate::trust::{Judged, judge};
use crate::{LazyPath, ViewError};

/// What decoded trees may weigh, in encoded bytes; in memory they take about three times as much.
/// Doors hold on to those that they use.
const TREES: u64 = 32 * 1024 * 1024;
/// What path infos may weigh.
const INFOS: u64 = 64 * 1024 * 1024;
/// For how long a path is not asked for again that was not there.
const ABSENT_FOR: Duration = Duration::from_secs(5);
const ABSENT: usize = 64 * 1024;
/// For how long one is not asked for again that could not be got. The kernel lets those who look
/// up the same name in one by one: each of them would wait as long as the first.
const FAILED_FOR: Duration = Duration::from_secs(1);
const FAILURES: usize = 4096;
/// Paths that the source is told are known. Those beyond come along once more.
const MAX_KNOWN: usize = 4096;
/// Paths that are listed; a cache with more answers by name alone.
pub(crate) const MAX_LISTED: usize = 250_000;
/// For how long a listing is good.
const LISTED_FOR: Duration = Duration::from_secs(10);

type Found<T> = Result<Option<Arc<T>>, ViewError>;
type Listing = Option<Arc<Vec<StorePath>>>;

pub(crate) struct Paths {
    source: Arc<Source>,
    source_name: String,
    store_dir: StoreDir,
    trust: Trust,
    disk: Option<(Arc<DiskCache>, Infos)>,
    recorder: Arc<Recorder>,
    /// After how long a source that says nothing is given up.
    patience: Duration,
    trees: quick_cache::sync::Cache<StorePathHash, Arc<LazyPath>, TreeWeight>,
    infos: quick_cache::sync::Cache<StorePathHash, Arc<PathInfo>, InfoWeight>,
    absent: quick_cache::sync::Cache<StorePathHash, Instant>,
    failures: quick_cache::sync::Cache<StorePathHash, (Instant, ViewError)>,
    /// Paths whose trees are on disk.
    stocked: Mutex<HashSet<StorePathHash>>,
    loading: Arc<Flights<StorePathHash, Found<LazyPath>>>,
    asking: Arc<Flights<StorePathHash, Found<PathInfo>>>,
    listing: Mutex<Option<(Instant, Listing)>>,
    /// The paths that there are, if none are to be added.
    fixed: OnceLock<HashSet<StorePathHash>>,
}

#[derive(Clone)]
struct TreeWeight;

impl quick_cache::Weighter<StorePathHash, Arc<LazyPath>> for TreeWeight {
    fn weight(&self, _: &StorePathHash, path: &Arc<LazyPath>) -> u64 {
        1024 + path.weight()
    }
}

#[derive(Clone)]
struct InfoWeight;

impl quick_cache::Weighter<StorePathHash, Arc<PathInfo>> for InfoWeight {
    fn weight(&self, _: &StorePathHash, info: &Arc<PathInfo>) -> u64 {
        512 + 80 * info.references.len() as u64
    }
}

impl Paths {
    pub fn new(
        source: Arc<Source>,
        store_dir: StoreDir,
        trust: Trust,
        disk: Option<Arc<DiskCache>>,
        recorder: Arc<Recorder>,
        patience: Duration,
    ) -> Arc<Self> {
        let source_name = source.name();
        let disk = disk.map(|disk| {
            let infos = disk.infos(&source_name);
            (disk, infos)
        });
        let stocked = disk.as_ref().map(|(_, infos)| infos.all()).unwrap_or_default();
        Arc::new(Self {
            source,
            source_name,
            store_dir,
            trust,
            disk,
            recorder,
            patience,
            trees: quick_cache::sync::Cache::with_weighter(4096, TREES, TreeWeight),
            infos: quick_cache::sync::Cache::with_weighter(100_000, INFOS, InfoWeight),
            absent: quick_cache::sync::Cache::new(ABSENT),
            failures: quick_cache::sync::Cache::new(FAILURES),
            stocked: Mutex::new(stocked.into_iter().collect()),
            loading: Flights::new(),
            asking: Flights::new(),
            listing: Mutex::default(),
            fixed: OnceLock::new(),
        })
    }

    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    pub fn source_name(&self) -> &str {
        &self.source_name
    }

    /// From now on only the paths that there are now exist. Whether they could be listed.
    pub async fn fix(self: &Arc<Self>) -> Result<bool, ViewError> {
        let Some(paths) = self.list().await? else { return Ok(false) };
        let _ = self.fixed.set(paths.iter().map(StorePath::hash).collect());
        Ok(true)
    }

    /// Every path, if they can be listed.
    pub async fn list(self: &Arc<Self>) -> Result<Listing, ViewError> {
        {
            let listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((since, listing)) = &*listing
                && (self.fixed.get().is_some() || since.elapsed() < LISTED_FOR)
            {
                return Ok(listing.clone());
            }
        }
        let listed = self.in_time(self.source.paths(MAX_LISTED)).await;
        let listed = listed.map_err(|error| self.unreachable("the list of paths", &error.0))?;
        let listed = listed.map(Arc::new);
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        *listing = Some((Instant::now(), listed.clone()));
        Ok(listed)
    }

    /// Whether it is known that there is no such path.
    fn is_absent(&self, hash: &StorePathHash) -> bool {
        let fixed = self.fixed.get().is_some_and(|paths| !paths.contains(hash));
        fixed || self.absent.get(hash).is_some_and(|since| since.elapsed() < ABSENT_FOR)
    }

    /// A path with its tree, if that can be told from memory.
    pub fn tree_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>> {
        match self.trees.get(&hash) {
            Some(path) => Some(Some(path)),
            None => self.is_absent(&hash).then_some(None),
        }
    }

    /// A path with its tree.
    pub async fn tree(self: &Arc<Self>, hash: StorePathHash) -> Found<LazyPath> {
        if let Some(known) = self.tree_now(hash) {
            return Ok(known);
        }
        if let Some((since, error)) = self.failures.get(&hash)
            && since.elapsed() < FAILED_FOR
        {
            return Err(error);
        }
        let paths = self.clone();
        let found = self.loading.join(hash, || async move { paths.load(hash).await }).await;
        let found = found.unwrap_or_else(|| Err(self.unreachable(&hash.to_string(), ENDING)));
        if let Err(error @ ViewError::Unreachable { .. }) = &found {
            self.failures.insert(hash, (Instant::now(), error.clone()));
        }
        found
    }

    /// What is known of a path.
    pub async fn info(self: &Arc<Self>, hash: StorePathHash) -> Found<PathInfo> {
        if let Some(info) = self.infos.get(&hash) {
            return Ok(Some(info));
        }
        if self.is_absent(&hash) {
            return Ok(None);
        }
        let paths = self.clone();
        let found = self.asking.join(hash, || async move { paths.ask(hash).await }).await;
        found.unwrap_or_else(|| Err(self.unreachable(&hash.to_string(), ENDING)))
    }

    /// Whoever looks something up cannot be killed while it waits.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let late = || SourceError(format!("no answer within {} s", self.patience.as_secs()));
        tokio::time::timeout(self.patience, answer).await.unwrap_or_else(|_| Err(late()))
    }

    fn unreachable(&self, what: &str, why: &str) -> ViewError {
        let error = ViewError::Unreachable {
            what: what.to_owned(),
            source_name: self.source_name.clone(),
            why: why.to_owned(),
        };
        tracing::error!("{error}");
        error
    }

    fn untrusted(&self, path: &str, why: &str) -> ViewError {
        let error = ViewError::Untrusted { path: path.to_owned(), why: why.to_owned() };
        tracing::error!(cache = %self.source_name, "{error}");
        error
    }

    async fn load(self: &Arc<Self>, hash: StorePathHash) -> Found<LazyPath> {
        let paths = self.clone();
        let kept = tokio::task::spawn_blocking(move || paths.load_kept(hash)).await;
        if let Ok(Some(path)) = kept {
            return Ok(Some(path));
        }
        let closure = self.disk.is_some();
        let known = if closure { self.known(hash) } else { Vec::new() };
        let hashes = hash.as_bytes().to_vec();
        let question = SyncPaths { hashes, closure, trees: true, known };
        let answer = self.in_time(self.source.sync(question)).await;
        let answer = answer.map_err(|error| self.unreachable(&hash.to_string(), &error.0))?;
        let paths = self.clone();
        let worked = tokio::task::spawn_blocking(move || paths.work_on(hash, answer)).await;
        match worked {
            Ok(Told::Path(path)) => Ok(Some(path)),
            Ok(Told::Nar(narinfo, judged)) => self.load_whole(hash, narinfo, judged).await,
            Ok(Told::Absent) => {
                self.absent.insert(hash, Instant::now());
                Ok(None)
            }
            Ok(Told::Wrong(error)) => Err(error),
            Err(error) => Err(self.unreachable(&hash.to_string(), &error.to_string())),
        }
    }

    /// Keeps what the source told, and judges what it told of `hash`. Blocks.
    fn work_on(&self, hash: StorePathHash, answer: Vec<SyncedPath>) -> Told {
        let Some(ours) = self.take(hash, answer) else { return Told::Absent };
        let judged = match self.judged(hash, &ours.narinfo) {
            Ok(judged) => judged,
            Err(error) => return Told::Wrong(error),
        };
        // A copy of a cache in files has the narinfos, and trees nowhere.
        let tree = match judged.tree {
            Some(tree) if !ours.tree.is_empty() => tree,
            _ => return Told::Nar(String::from_utf8_lossy(&ours.narinfo).into_owned(), judged),
        };
        match self.build(&judged, tree, &ours.tree, &ours.lists) {
            Ok(path) => Told::Path(self.hold(hash, path)),
            Err(why) => Told::Wrong(self.unreachable(&judged.info.store_path.to_string(), &why)),
        }
    }

    fn hold(&self, hash: StorePathHash, path: LazyPath) -> Arc<LazyPath> {
        let path = Arc::new(path);
        self.trees.insert(hash, path.clone());
        path
    }

    /// A path without a tree that anybody vouches for: its NAR is fetched and verified whole.
    async fn load_whole(
        self: &Arc<Self>,
        hash: StorePathHash,
        narinfo: String,
        judged: Judged,
    ) -> Found<LazyPath> {
        let name = judged.info.store_path.to_string();
        if let Err(why) = &judged.nar
            && !judged.by_contents
        {
            return Err(self.untrusted(&name, &format!("{}, and {why}", judged.why_no_tree)));
        }
        let whole = self.fetch_whole(hash, &narinfo, Arc::new(|_, _| {})).await?;
        let paths = self.clone();
        let work = move || {
            let tree = Digest::of(&whole.tree);
            let path = paths.build(&judged, tree, &whole.tree, &whole.lists)?;
            if let Some((disk, infos)) = &paths.disk {
                paths.keep(disk, &whole.tree, &whole.lists);
                disk.put_info(infos, hash, &narinfo, Some(paths.verified(tree)));
                paths.stock(hash);
            }
            // Its contents were what its name wants.
            paths.infos.insert(hash, judged.info.clone());
            Ok(paths.hold(hash, path.of_nar()))
        };
        let worked = tokio::task::spawn_blocking(work).await;
        let path = worked.unwrap_or_else(|error| Err(error.to_string()));
        path.map(Some).map_err(|why| self.unreachable(&name, &why))
    }

    /// How a tree was verified: that everything is believed now is no reason to believe it later.
    fn verified(&self, tree: Digest) -> Verified {
        match self.trust {
            Trust::Keys(_) => Verified::Proven(tree),
            Trust::Everything => Verified::Believed(tree),
        }
    }

    /// The path's tree is on disk.
    fn stock(&self, hash: StorePathHash) {
        self.stocked.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    async fn fetch_whole(
        &self,
        hash: StorePathHash,
        narinfo: &str,
        seen: Seen,
    ) -> Result<Whole, ViewError> {
        let keep = Keep { disk: self.disk.as_ref().map(|(disk, _)| disk.clone()), seen };
        let whole = self.source.whole(hash, narinfo, &self.trust, keep).await;
        whole.map_err(|error| self.unreachable(&hash.to_string(), &error.0))
    }

    /// Fetches a path's NAR once more, for chunks that are not on disk any more.
    pub async fn see_again(&self, hash: StorePathHash, seen: Seen) -> Result<(), ViewError> {
        let question = SyncPaths { hashes: hash.as_bytes().to_vec(), ..SyncPaths::default() };
        let answer = self.source.sync(question).await;
        let answer = answer.map_err(|error| self.unreachable(&hash.to_string(), &error.0))?;
        let narinfo = answer.first().map(|path| String::from_utf8_lossy(&path.narinfo));
        self.fetch_whole(hash, &narinfo.unwrap_or_default(), seen).await.map(drop)
    }

    fn known(&self, but: StorePathHash) -> Vec<u8> {
        let stocked = self.stocked.lock().unwrap_or_else(PoisonError::into_inner);
        let others = stocked.iter().filter(|hash| **hash != but).take(MAX_KNOWN);
        others.flat_map(|hash| *hash.as_bytes()).collect()
    }

    /// Keeps what the source told, and gives what it told of `hash`. Blocks.
    fn take(&self, hash: StorePathHash, answer: Vec<SyncedPath>) -> Option<SyncedPath> {
        let mut ours = None;
        for path in answer {
            let Ok(bytes) = <[u8; 20]>::try_from(&path.hash[..]) else { continue };
            let its = StorePathHash::from(bytes);
            if path.narinfo.is_empty() {
                continue;
            }
            self.recorder.learn(its, &path.profile);
            if let Some((disk, infos)) = &self.disk
                && !path.tree.is_empty()
                && let Ok(text) = std::str::from_utf8(&path.narinfo)
            {
                self.keep(disk, &path.tree, &path.lists);
                disk.put_info(infos, its, text, None);
                self.stock(its);
            }
            if its == hash {
                ours = Some(path);
            }
        }
        ours
    }

    /// Keeps a tree and its lists on disk. Blocks.
    ///
    /// Lists go by digests of their own, not by that of the blob they make up: two sources that
    /// share the cache may have cut the blob in different ways.
    fn keep(&self, disk: &DiskCache, tree: &[u8], lists: &[Vec<u8>]) {
        let mut records = Vec::new();
        let mut add = |kind, bytes: &[u8]| {
            if !disk.has(kind, &Digest::of(bytes)) {
                // Without it the path is asked for again.
                let _ = record::append(&mut records, kind, bytes);
            }
        };
        add(Kind::Tree, tree);
        lists.iter().for_each(|list| add(Kind::ChunkList, list));
        disk.put(&records);
    }

    fn judged(&self, hash: StorePathHash, narinfo: &[u8]) -> Result<Judged, ViewError> {
        let text = std::str::from_utf8(narinfo)
            .map_err(|_| self.untrusted(&hash.to_string(), "its narinfo is not text"))?;
        let judged = judge(hash, text, &self.trust, &self.store_dir);
        let judged = judged.map_err(|why| self.untrusted(&hash.to_string(), &why))?;
        if judged.nar.is_ok() {
            self.infos.insert(hash, judged.info.clone());
        }
        Ok(judged)
    }

    /// What is on disk of a path, if it is whole and somebody vouches for it. Blocks.
    fn load_kept(&self, hash: StorePathHash) -> Option<Arc<LazyPath>> {
        let (disk, infos) = self.disk.as_ref()?;
        let kept = infos.get(hash)?;
        let judged = judge(hash, &kept.text, &self.trust, &self.store_dir).ok()?;
        let verified = match kept.verified {
            Some(Verified::Proven(tree)) if judged.nar.is_ok() || judged.by_contents => Some(tree),
            Some(Verified::Believed(tree)) if matches!(self.trust, Trust::Everything) => Some(tree),
            _ => None,
        };
        let digest = verified.or(judged.tree)?;
        if !disk.has(Kind::Tree, &digest) && disk.should_look() {
            // Another mount may have brought it.
            disk.look_again().ok()?;
        }
        let tree = disk.get(Kind::Tree, &digest)?;
        let decoded = Tree::decode(&tree).ok()?;
        let lists = decoded.lists().map(|(_, list)| disk.get(Kind::ChunkList, list));
        let lists = lists.collect::<Option<Vec<_>>>()?;
        let path = self.build(&judged, digest, &tree, &lists).ok()?;
        self.infos.insert(hash, judged.info.clone());
        Some(self.hold(hash, if verified.is_some() { path.of_nar() } else { path }))
    }

    /// A path from its tree and lists, which have to be what `digest` stands for.
    fn build(
        &self,
        judged: &Judged,
        digest: Digest,
        tree: &[u8],
        lists: &[Vec<u8>],
    ) -> Result<LazyPath, String> {
        if Digest::of(tree) != digest {
            return Err("its tree is not the one that is signed".to_owned());
        }
        let tree = Tree::decode(tree).map_err(|error| error.to_string())?;
        if tree.lists().len() != lists.len() {
            return Err("chunk lists are missing".to_owned());
        }
        let mut decoded: HashMap<Digest, Box<[ChunkRef]>> = HashMap::with_capacity(lists.len());
        for ((blob, expected), list) in tree.lists().zip(lists) {
            if Digest::of(list) != *expected {
                return Err(format!("the chunk list of {blob} is not the one that its tree names"));
            }
            let list = ChunkList::decode(list).map_err(|error| error.to_string())?;
            decoded.insert(*blob, list.chunks.into());
        }
        Ok(LazyPath::new(judged.info.clone(), Arc::new(tree), decoded))
    }

    async fn ask(self: &Arc<Self>, hash: StorePathHash) -> Found<PathInfo> {
        let paths = self.clone();
        let kept = tokio::task::spawn_blocking(move || paths.kept_info(hash)).await;
        if let Ok(Some(info)) = kept {
            return Ok(Some(info));
        }
        let hashes = hash.as_bytes().to_vec();
        let question = SyncPaths { hashes, closure: true, trees: false, known: Vec::new() };
        let answer = self.in_time(self.source.sync(question)).await;
        let answer = answer.map_err(|error| self.unreachable(&hash.to_string(), &error.0))?;
        let paths = self.clone();
        let judged = tokio::task::spawn_blocking(move || paths.judge_all(hash, &answer)).await;
        let judged = judged
            .unwrap_or_else(|error| Err(self.unreachable(&hash.to_string(), &error.to_string())));
        match judged? {
            Asked::Info(info) => Ok(Some(info)),
            Asked::Contents => Ok(self.tree(hash).await?.map(|path| path.info.clone())),
            Asked::Absent => Ok(None),
        }
    }

    fn kept_info(&self, hash: StorePathHash) -> Option<Arc<PathInfo>> {
        let kept = self.disk.as_ref()?.1.get(hash)?;
        let judged = judge(hash, &kept.text, &self.trust, &self.store_dir).ok()?;
        judged.nar.ok()?;
        self.infos.insert(hash, judged.info.clone());
        Some(judged.info)
    }

    /// Holds on to what is known of all paths, and gives what is known of `hash`.
    fn judge_all(&self, hash: StorePathHash, answer: &[SyncedPath]) -> Result<Asked, ViewError> {
        let mut ours = Ok(Asked::Absent);
        for path in answer.iter().filter(|path| !path.narinfo.is_empty()) {
            let Ok(bytes) = <[u8; 20]>::try_from(&path.hash[..]) else { continue };
            let its = StorePathHash::from(bytes);
            let judged = self.judged(its, &path.narinfo);
            if its != hash {
                continue;
            }
            ours = judged.and_then(|judged| match judged.nar {
                Ok(()) => Ok(Asked::Info(judged.info)),
                Err(_) if judged.by_contents => Ok(Asked::Contents),
                Err(why) => Err(self.untrusted(&judged.info.store_path.to_string(), &why)),
            });
        }
        if matches!(ours, Ok(Asked::Absent)) {
            self.absent.insert(hash, Instant::now());
        }
        ours
    }
}

/// What a source said of a path that was asked about.
enum Asked {
    Info(Arc<PathInfo>),
    /// It is to be believed if its contents are right.
    Contents,
    Absent,
}

/// What a source told of a path.
enum Told {
    Path(Arc<LazyPath>),
    /// No tree that can be used: its NAR has to be fetched.
    Nar(String, Judged),
    Absent,
    Wrong(ViewError),
}

const ENDING: &str = "it failed within, or the mount is ending";
