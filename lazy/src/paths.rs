//! The paths of a lazy store: what is known of them, where that comes from, and what vouches for it.
//!
//! A path is looked for in memory, on disk, and at the source, which tells of its whole closure at
//! once. What is kept of the closure is judged when it is needed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use castore::tree::{ChunkList, ChunkRef, Tree};
use castore::{Digest, Kind};
use granary_api::sync::{SyncPaths, SyncedPath};
use granary_client::migrate::Trust;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};

use crate::disk::{DiskCache, Infos};
use crate::flight::Flights;
use crate::profile::Recorder;
use crate::record;
use crate::source::{Keep, Source, Whole};
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
    trees: quick_cache::sync::Cache<StorePathHash, Arc<LazyPath>, TreeWeight>,
    infos: quick_cache::sync::Cache<StorePathHash, Arc<PathInfo>, InfoWeight>,
    absent: quick_cache::sync::Cache<StorePathHash, Instant>,
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
        1024 + path.tree.weight() as u64
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
            trees: quick_cache::sync::Cache::with_weighter(4096, TREES, TreeWeight),
            infos: quick_cache::sync::Cache::with_weighter(100_000, INFOS, InfoWeight),
            absent: quick_cache::sync::Cache::new(ABSENT),
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
        let listed = self.source.paths(MAX_LISTED).await;
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
        let paths = self.clone();
        let found = self.loading.join(hash, || async move { paths.load(hash).await }).await;
        found.unwrap_or_else(|| Err(self.unreachable(&hash.to_string(), ENDING)))
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
        let hint = "name the cache's public key with --public-key if it is to be trusted";
        tracing::error!(cache = %self.source_name, hint, "{error}");
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
        let answer = self.source.sync(question).await;
        let answer = answer.map_err(|error| self.unreachable(&hash.to_string(), &error.0))?;
        let paths = self.clone();
        let taken = tokio::task::spawn_blocking(move || paths.take(hash, answer)).await;
        let ours =
            taken.map_err(|error| self.unreachable(&hash.to_string(), &error.to_string()))?;
        let Some(ours) = ours else {
            self.absent.insert(hash, Instant::now());
            return Ok(None);
        };
        let (judged, path) = (self.judged(hash, &ours.narinfo)?, &ours);
        let name = judged.info.store_path.to_string();
        let tree = match judged.tree {
            Some(tree) => tree,
            None => return self.load_whole(hash, &path.narinfo, &judged).await,
        };
        let built = self.build(&judged, tree, &path.tree, &path.lists);
        let path = built.map_err(|why| self.unreachable(&name, &why))?;
        self.trees.insert(hash, path.clone());
        Ok(Some(path))
    }

    /// A path without a tree that anybody vouches for: its NAR is fetched and verified whole.
    async fn load_whole(
        self: &Arc<Self>,
        hash: StorePathHash,
        narinfo: &[u8],
        judged: &Judged,
    ) -> Found<LazyPath> {
        let name = judged.info.store_path.to_string();
        if let Err(why) = &judged.nar {
            return Err(self.untrusted(&name, &format!("{}, and {why}", judged.why_no_tree)));
        }
        let text = String::from_utf8_lossy(narinfo);
        let whole = self.fetch_whole(hash, &text, Arc::new(|_, _| {})).await?;
        let tree = Digest::of(&whole.tree);
        let built = self.build(judged, tree, &whole.tree, &whole.lists);
        let path = built.map_err(|why| self.unreachable(&name, &why))?;
        if let Some((disk, infos)) = &self.disk {
            self.keep(disk, &whole.tree, &whole.lists);
            disk.put_info(infos, hash, &text, Some(tree));
        }
        self.trees.insert(hash, path.clone());
        Ok(Some(path))
    }

    async fn fetch_whole(
        &self,
        hash: StorePathHash,
        narinfo: &str,
        seen: Arc<dyn Fn(&Digest, &[u8]) + Send + Sync>,
    ) -> Result<Whole, ViewError> {
        let keep = Keep { disk: self.disk.as_ref().map(|(disk, _)| disk.clone()), seen };
        let whole = self.source.whole(hash, narinfo, &self.trust, keep).await;
        whole.map_err(|error| self.unreachable(&hash.to_string(), &error.0))
    }

    /// Fetches a path's NAR once more, for chunks that are not on disk any more.
    pub async fn see_again(
        &self,
        hash: StorePathHash,
        seen: Arc<dyn Fn(&Digest, &[u8]) + Send + Sync>,
    ) -> Result<(), ViewError> {
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
                self.stocked.lock().unwrap_or_else(PoisonError::into_inner).insert(its);
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
        let digest = judged.tree.or(kept.verified.filter(|_| judged.nar.is_ok()))?;
        let tree = disk.get(Kind::Tree, &digest)?;
        let decoded = Tree::decode(&tree).ok()?;
        let lists = decoded.lists().map(|(_, list)| disk.get(Kind::ChunkList, list));
        let lists = lists.collect::<Option<Vec<_>>>()?;
        let path = self.build(&judged, digest, &tree, &lists).ok()?;
        self.infos.insert(hash, judged.info.clone());
        self.trees.insert(hash, path.clone());
        Some(path)
    }

    /// A path from its tree and lists, which have to be what `digest` stands for.
    fn build(
        &self,
        judged: &Judged,
        digest: Digest,
        tree: &[u8],
        lists: &[Vec<u8>],
    ) -> Result<Arc<LazyPath>, String> {
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
        Ok(Arc::new(LazyPath::new(judged.info.clone(), Arc::new(tree), decoded)))
    }

    async fn ask(self: &Arc<Self>, hash: StorePathHash) -> Found<PathInfo> {
        if let Some((_, infos)) = &self.disk
            && let Some(kept) = infos.get(hash)
            && let Ok(judged) = judge(hash, &kept.text, &self.trust, &self.store_dir)
            && judged.nar.is_ok()
        {
            self.infos.insert(hash, judged.info.clone());
            return Ok(Some(judged.info));
        }
        let hashes = hash.as_bytes().to_vec();
        let question = SyncPaths { hashes, closure: true, trees: false, known: Vec::new() };
        let answer = self.source.sync(question).await;
        let answer = answer.map_err(|error| self.unreachable(&hash.to_string(), &error.0))?;
        let mut ours = Ok(None);
        for path in answer.iter().filter(|path| !path.narinfo.is_empty()) {
            let Ok(bytes) = <[u8; 20]>::try_from(&path.hash[..]) else { continue };
            let its = StorePathHash::from(bytes);
            let judged = self.judged(its, &path.narinfo);
            if its != hash {
                continue;
            }
            ours = judged.and_then(|judged| match judged.nar {
                Ok(()) => Ok(Some(judged.info)),
                Err(why) => Err(self.untrusted(&judged.info.store_path.to_string(), &why)),
            });
        }
        if matches!(ours, Ok(None)) {
            self.absent.insert(hash, Instant::now());
        }
        ours
    }
}

const ENDING: &str = "the mount is ending";
