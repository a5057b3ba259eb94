//! A view in memory, made of trees that a test thinks up, and mounts of it.
#![allow(dead_code)] // each test file uses some of it

pub mod calls;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use castore::Digest;
use castore::tree::{Node, Tree, TreeBuilder};
use granary_fuse::{Mount, MountOptions};
use granary_lazy::{FileRef, LazyPath, View, ViewError};
use nix_compat::nixhash::Sha256;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What lies at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    File { contents: Vec<u8>, executable: bool },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Item>),
}

impl Item {
    pub fn file(contents: impl AsRef<[u8]>) -> Self {
        Item::File { contents: contents.as_ref().to_vec(), executable: false }
    }

    pub fn program(contents: impl AsRef<[u8]>) -> Self {
        Item::File { contents: contents.as_ref().to_vec(), executable: true }
    }

    pub fn symlink(target: impl AsRef<[u8]>) -> Self {
        Item::Symlink(target.as_ref().to_vec())
    }

    pub fn directory<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Item)>) -> Self {
        let entries = entries.into_iter().map(|(name, item)| (name.as_ref().to_vec(), item));
        Item::Directory(entries.collect())
    }

    fn build(&self, name: &[u8], builder: &mut TreeBuilder, blobs: &mut HashMap<Digest, Bytes>) {
        match self {
            Item::File { contents, executable } => {
                let digest = Digest::of(contents);
                blobs.insert(digest, contents.clone().into());
                let size = contents.len() as u64;
                let node = Node::File { digest, size, executable: *executable };
                let name = builder.name(name).unwrap();
                builder.place(name, node).unwrap();
            }
            Item::Symlink(target) => builder.symlink(name, target).unwrap(),
            Item::Directory(entries) => {
                builder.enter_directory(name).unwrap();
                for (name, item) in entries {
                    item.build(name, builder, blobs);
                }
                builder.leave_directory().unwrap();
            }
        }
    }
}

/// The store path number `n`, with a name.
pub fn store_path(n: u64, name: &str) -> StorePath {
    let mut hash = [0x5a; 20];
    hash[..8].copy_from_slice(&n.to_le_bytes());
    StorePath::new(hash.into(), name).unwrap()
}

/// A path info and a tree around a root.
pub fn lazy_path(store_path: &StorePath, tree: Tree) -> Arc<LazyPath> {
    let info = PathInfo {
        store_path: store_path.clone(),
        nar_hash: Sha256::of(store_path.to_string().as_bytes()),
        nar_size: 1,
        references: Vec::new(),
        deriver: None,
        signatures: Vec::new(),
        odd_signatures: Vec::new(),
        ca: None,
        ultimate: false,
        registration_time: 1,
    };
    Arc::new(LazyPath::new(Arc::new(info), Arc::new(tree), HashMap::new()))
}

/// A view of items, with switches for what can go wrong.
pub struct ModelView {
    store_dir: StoreDir,
    paths: Mutex<Arc<Vec<StorePath>>>,
    trees: Mutex<HashMap<StorePathHash, Arc<LazyPath>>>,
    blobs: Mutex<HashMap<Digest, Bytes>>,
    /// Nothing is at hand: everything has to be waited for.
    pub remote: AtomicBool,
    /// How long, in milliseconds.
    pub delay: AtomicU64,
    /// Nothing can be had.
    pub failing: AtomicBool,
    /// Reads panic.
    pub panicking: AtomicBool,
    /// Reads come back a byte short.
    pub short: AtomicBool,
    /// The paths cannot be listed.
    pub unlisted: AtomicBool,
    /// Reads that were asked for, and files that were wanted whole.
    pub reads: AtomicU64,
    pub materialised: AtomicU64,
    /// Trees that were asked for.
    pub trees_asked: AtomicU64,
    /// Who waits now.
    pub waiting: AtomicU64,
    plain: TempDir,
}

impl ModelView {
    pub fn new(items: impl IntoIterator<Item = (StorePath, Item)>) -> Arc<Self> {
        let view = Arc::new(Self {
            store_dir: StoreDir::default(),
            paths: Mutex::default(),
            trees: Mutex::default(),
            blobs: Mutex::default(),
            remote: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            panicking: AtomicBool::new(false),
            short: AtomicBool::new(false),
            unlisted: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            materialised: AtomicU64::new(0),
            trees_asked: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            plain: TempDir::new().unwrap(),
        });
        for (path, item) in items {
            view.add(&path, &item);
        }
        view
    }

    /// Adds a path, as a push would.
    pub fn add(&self, path: &StorePath, item: &Item) {
        let lazy = lazy_path(path, self.tree_of(item));
        self.trees.lock().unwrap().insert(path.hash(), lazy);
        let mut paths = self.paths.lock().unwrap();
        let mut longer = paths.to_vec();
        longer.push(path.clone());
        longer.sort();
        *paths = Arc::new(longer);
    }

    /// The tree of an item alone.
    pub fn tree_of(&self, item: &Item) -> Tree {
        let mut builder = TreeBuilder::default();
        item.build(b"", &mut builder, &mut self.blobs.lock().unwrap());
        Tree::decode(&builder.finish().unwrap().1).unwrap()
    }

    pub fn path_of(&self, path: &StorePath) -> Arc<LazyPath> {
        self.trees.lock().unwrap()[&path.hash()].clone()
    }

    async fn wait(&self) -> Result<(), ViewError> {
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(delay)).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if self.failing.load(Ordering::Relaxed) {
            return Err(ViewError::Unreachable {
                what: "it".into(),
                source_name: self.name().into(),
                why: "the test wants so".into(),
            });
        }
        Ok(())
    }

    fn at_hand(&self) -> bool {
        !self.remote.load(Ordering::Relaxed) && !self.failing.load(Ordering::Relaxed)
    }

    fn bytes(&self, file: FileRef, offset: u64, length: usize) -> Bytes {
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panicking.load(Ordering::Relaxed), "the test wants a panic");
        let blob = self.blobs.lock().unwrap()[&file.digest].clone();
        assert_eq!(blob.len() as u64, file.size);
        let end = (offset as usize + length).min(blob.len());
        let end = end - usize::from(self.short.load(Ordering::Relaxed));
        blob.slice(offset as usize..end)
    }
}

impl View for ModelView {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn name(&self) -> &str {
        "model://cache"
    }

    async fn paths(&self) -> Result<Option<Arc<Vec<StorePath>>>, ViewError> {
        self.wait().await?;
        let listed = !self.unlisted.load(Ordering::Relaxed);
        Ok(listed.then(|| self.paths.lock().unwrap().clone()))
    }

    async fn info(&self, hash: StorePathHash) -> Result<Option<Arc<PathInfo>>, ViewError> {
        Ok(self.path(hash).await?.map(|path| path.info.clone()))
    }

    async fn path(&self, hash: StorePathHash) -> Result<Option<Arc<LazyPath>>, ViewError> {
        self.trees_asked.fetch_add(1, Ordering::Relaxed);
        self.wait().await?;
        Ok(self.trees.lock().unwrap().get(&hash).cloned())
    }

    fn path_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>> {
        self.trees_asked.fetch_add(1, Ordering::Relaxed);
        self.at_hand().then(|| self.trees.lock().unwrap().get(&hash).cloned())
    }

    async fn read(
        &self,
        _: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, ViewError> {
        self.wait().await?;
        Ok(self.bytes(file, offset, length))
    }

    fn read_now(
        &self,
        _: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Option<Bytes> {
        self.at_hand().then(|| self.bytes(file, offset, length))
    }

    async fn materialise(&self, _: &Arc<LazyPath>, file: FileRef) -> Result<Arc<File>, ViewError> {
        self.wait().await?;
        self.materialised.fetch_add(1, Ordering::Relaxed);
        let name = self.plain.path().join(file.digest.to_string());
        if !name.exists() {
            let mut written = tempfile::NamedTempFile::new_in(self.plain.path()).unwrap();
            written.write_all(&self.bytes(file, 0, file.size as usize)).unwrap();
            written.persist(&name).unwrap();
        }
        Ok(Arc::new(File::open(name).unwrap()))
    }
}

/// A view that is mounted for as long as this lives.
pub struct Mounted<V: View = ModelView> {
    pub view: Arc<V>,
    pub mount: Mount,
    directory: TempDir,
    runtime: Option<Runtime>,
    since: Instant,
    detached: AtomicBool,
    /// The kernel's caches belong to the machine: who drops them is alone.
    _caches: File,
}

fn caches() -> File {
    File::create(std::env::temp_dir().join("granary-test-caches.lock")).unwrap()
}

impl<V: View> Mounted<V> {
    pub fn new(view: &Arc<V>) -> Self {
        Self::with(view, MountOptions::default())
    }

    /// Tests that mount want root and /dev/fuse; without them they fail here.
    pub fn with(view: &Arc<V>, options: MountOptions) -> Self {
        let caches = caches();
        caches.lock_shared().unwrap();
        Self::locked(view, options, caches)
    }

    /// For a test that drops the kernel's caches: no other has a mount meanwhile.
    pub fn alone(view: &Arc<V>, options: MountOptions) -> Self {
        let caches = caches();
        caches.lock().unwrap();
        Self::locked(view, options, caches)
    }

    fn locked(view: &Arc<V>, options: MountOptions, caches: File) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let directory = TempDir::new().unwrap();
        let mount =
            Mount::new(view.clone(), directory.path(), options, runtime.handle().clone()).unwrap();
        let detached = AtomicBool::new(false);
        let (view, runtime) = (view.clone(), Some(runtime));
        Self { view, mount, directory, runtime, since: Instant::now(), detached, _caches: caches }
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn at(&self, path: &StorePath) -> PathBuf {
        self.root().join(path.to_string())
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// How many messages it takes to do something.
    pub fn messages(&self, what: impl FnOnce()) -> u64 {
        let before = self.mount.statistics().messages();
        what();
        self.mount.statistics().messages() - before
    }

    /// Takes the mount away, whatever is open or waited for.
    pub fn detach(&self) {
        granary_fuse::unmount(self.root(), true).unwrap();
        self.detached.store(true, Ordering::Relaxed);
    }

    /// How long it has been there.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Has the kernel forget everything. The test has to be [`Mounted::alone`].
    pub fn forget_everything(&self) {
        eventually("the kernel forgets", || {
            self.drop_caches(true);
            self.mount.statistics().inodes == 0
        });
    }

    /// Has the kernel forget pages, and inodes and names if `all`.
    pub fn drop_caches(&self, all: bool) {
        fs::write("/proc/sys/vm/drop_caches", if all { "3" } else { "1" }).unwrap();
    }
}

impl<V: View> Drop for Mounted<V> {
    fn drop(&mut self) {
        if !self.detached.load(Ordering::Relaxed) {
            let ended = self.mount.unmount();
            assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "{what}: not after 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}
