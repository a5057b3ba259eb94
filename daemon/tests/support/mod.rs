//! A view of a real closure's files and database, and a daemon for it.

#![allow(dead_code)] // Each test binary takes what it needs.

pub mod nix;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use castore::Digest;
use castore::tree::{Node, Tree, TreeBuilder};
use granary_daemon::{Daemon, Options};
use granary_lazy::{FileRef, LazyPath, View, ViewError};
use nix_compat::database::Database;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// What `tests/setup` provides.
pub fn tools() -> PathBuf {
    let given = std::env::var_os("GRANARY_TEST_TOOLS");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tools = top.join(given.unwrap_or_else(|| "target/test-tools".into()));
    let tools = tools.canonicalize().unwrap_or(tools);
    assert!(tools.is_dir(), "{} is missing: run tests/setup", tools.display());
    tools
}

/// A directory for one test, beside the tools. Gone when dropped.
pub fn scratch() -> TempDir {
    let parent = tools().join("tmp");
    fs::create_dir_all(&parent).unwrap();
    tempfile::Builder::new().prefix("daemon-").tempdir_in(parent).unwrap()
}

/// A view of paths whose files lie in a directory.
pub struct Local {
    store_dir: StoreDir,
    /// Where the files are.
    pub real: PathBuf,
    /// Every path, sorted.
    pub paths: Arc<Vec<StorePath>>,
    pub infos: HashMap<StorePathHash, Arc<PathInfo>>,
    trees: Mutex<HashMap<StorePathHash, Arc<LazyPath>>>,
    files: Mutex<HashMap<Digest, PathBuf>>,
    /// Whether it lists its paths.
    pub lists: AtomicBool,
    /// Whether its source answers; if it does not, nothing does for an hour.
    pub silent: AtomicBool,
    /// For how many milliseconds its source thinks.
    pub slow: AtomicU64,
    /// Whether its source says no.
    pub fails: AtomicBool,
    /// Whether files can be read.
    pub unreadable: AtomicBool,
    /// Infos asked for.
    pub asked: AtomicUsize,
}

impl Local {
    /// The tiny closure, derivations and all.
    pub fn tiny() -> Self {
        let root = tools().join("closures/tiny/root");
        let mut database =
            Database::open(&root.join("nix/var/nix/db/db.sqlite"), StoreDir::default()).unwrap();
        let mut paths: Vec<_> =
            database.all_paths().unwrap().into_iter().map(Result::unwrap).collect();
        paths.sort_unstable();
        let infos = database.path_infos(&paths).unwrap().into_iter().map(Option::unwrap);
        Self::new(root.join("nix/store"), infos.collect())
    }

    /// The top of the tiny closure.
    pub fn tiny_top() -> StorePath {
        let top = fs::read_to_string(tools().join("closures/tiny/A.top")).unwrap();
        StorePath::from_absolute(top.trim(), &StoreDir::default()).unwrap()
    }

    pub fn new(real: PathBuf, infos: Vec<PathInfo>) -> Self {
        let mut paths: Vec<_> = infos.iter().map(|info| info.store_path.clone()).collect();
        paths.sort_unstable();
        let infos = infos.into_iter().map(|info| (info.store_path.hash(), Arc::new(info)));
        Self {
            store_dir: StoreDir::default(),
            real,
            paths: Arc::new(paths),
            infos: infos.collect(),
            trees: Mutex::default(),
            files: Mutex::default(),
            lists: true.into(),
            silent: false.into(),
            slow: 0.into(),
            fails: false.into(),
            unreadable: false.into(),
            asked: 0.into(),
        }
    }

    async fn source(&self) -> Result<(), ViewError> {
        if self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        match self.slow.load(Ordering::Relaxed) {
            0 => {}
            millis => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(ViewError::Unreachable {
                what: "a path info".into(),
                source_name: self.name().into(),
                why: "connection refused".into(),
            });
        }
        Ok(())
    }

    fn tree(&self, name: &str) -> Tree {
        let mut builder = TreeBuilder::default();
        self.walk(&mut builder, b"", &self.real.join(name));
        Tree::decode(&builder.finish().unwrap().1).unwrap()
    }

    fn walk(&self, builder: &mut TreeBuilder, name: &[u8], path: &Path) {
        let metadata = fs::symlink_metadata(path).unwrap();
        if metadata.is_symlink() {
            let target = fs::read_link(path).unwrap();
            builder.symlink(name, target.as_os_str().as_bytes()).unwrap();
        } else if metadata.is_dir() {
            builder.enter_directory(name).unwrap();
            let mut entries: Vec<_> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            entries.sort_unstable();
            for entry in entries {
                self.walk(builder, entry.as_bytes(), &path.join(&entry));
            }
            builder.leave_directory().unwrap();
        } else {
            let digest = Digest::of(&fs::read(path).unwrap());
            self.files.lock().unwrap().insert(digest, path.to_owned());
            let executable = metadata.permissions().mode() & 0o100 != 0;
            let node = Node::File { digest, size: metadata.len(), executable };
            let name = builder.name(name).unwrap();
            builder.place(name, node).unwrap();
        }
    }
}

impl View for Local {
    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn name(&self) -> &str {
        "https://cache.example/tiny"
    }

    async fn paths(&self) -> Result<Option<Arc<Vec<StorePath>>>, ViewError> {
        self.source().await?;
        Ok(self.lists.load(Ordering::Relaxed).then(|| Arc::clone(&self.paths)))
    }

    async fn info(&self, hash: StorePathHash) -> Result<Option<Arc<PathInfo>>, ViewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.source().await?;
        Ok(self.infos.get(&hash).map(Arc::clone))
    }

    async fn path(&self, hash: StorePathHash) -> Result<Option<Arc<LazyPath>>, ViewError> {
        self.source().await?;
        let Some(info) = self.infos.get(&hash) else { return Ok(None) };
        if let Some(path) = self.trees.lock().unwrap().get(&hash) {
            return Ok(Some(Arc::clone(path)));
        }
        let tree = Arc::new(self.tree(&info.store_path.to_string()));
        let path = Arc::new(LazyPath::new(Arc::clone(info), tree, HashMap::new()));
        self.trees.lock().unwrap().insert(hash, Arc::clone(&path));
        Ok(Some(path))
    }

    fn path_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>> {
        self.trees.lock().unwrap().get(&hash).map(|path| Some(Arc::clone(path)))
    }

    async fn read(
        &self,
        _: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, ViewError> {
        self.source().await?;
        if self.unreadable.load(Ordering::Relaxed) {
            let (path, why) = (file.digest.to_string(), "a chunk has not its digest".to_owned());
            return Err(ViewError::Untrusted { path, why });
        }
        let path = self.files.lock().unwrap()[&file.digest].clone();
        let mut bytes = vec![0; length.min((file.size - offset) as usize)];
        File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        Ok(bytes.into())
    }

    fn read_now(&self, _: &Arc<LazyPath>, _: FileRef, _: u64, _: usize) -> Option<Bytes> {
        None
    }

    async fn materialise(&self, _: &Arc<LazyPath>, file: FileRef) -> Result<Arc<File>, ViewError> {
        Ok(Arc::new(File::open(&self.files.lock().unwrap()[&file.digest]).unwrap()))
    }
}

/// A daemon that runs until it is dropped.
pub struct Running {
    pub view: Arc<Local>,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<()>>,
    runtime: Runtime,
    _dir: TempDir,
}

impl Running {
    pub fn new(view: Local, options: Options) -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let view = Arc::new(view);
        let daemon = Daemon::new(Arc::clone(&view), runtime.handle().clone(), options);
        let listening = daemon.listen(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = runtime.spawn(async move {
            daemon.serve(listening, async { drop(stopped.await) }).await;
        });
        Running { view, socket, stop: Some(stop), serving: Some(serving), runtime, _dir: dir }
    }

    pub fn tiny() -> Self {
        Self::new(Local::tiny(), Options::default())
    }

    /// What Nix calls it.
    pub fn url(&self) -> String {
        format!("unix://{}?real={}", self.socket.display(), self.view.real.display())
    }

    /// Stops it, and waits until it has.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            self.runtime.block_on(serving).unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            let _ = self.runtime.block_on(serving);
        }
    }
}
