//! Where stores lie, and what is left of them when their process is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::bytes::S3Packs;
use castore::index::PostgresIndex;
use castore::{Options, Store, StoreError};
use granary_test_services::{KEY, Postgres, S3Server, SECRET};
use tempfile::TempDir;

use crate::model::folder::{copy_still, files, in_memory};

/// Where packs and index are.
enum Kind {
    /// In the folder.
    Folder,
    /// Packs in a bucket, index in the folder.
    Bucket { url: String },
    /// In a bucket and a database, for two processes.
    Shared { url: String, database: String },
}

/// A place for stores.
pub struct Site {
    kind: Kind,
    target: u64,
    dir: TempDir,
    /// How many folders were made.
    made: usize,
    /// The folder of each process.
    folders: Vec<PathBuf>,
}

/// Servers that serve all of a test's sites.
pub struct Servers {
    s3: S3Server,
    postgres: Option<Postgres>,
}

impl Servers {
    pub fn start(database: bool) -> Self {
        Self { s3: S3Server::start(), postgres: database.then(Postgres::start) }
    }

    /// A new bucket, and a new database if there are any.
    pub fn site(&self, number: usize, target: u64) -> Site {
        let url = self.s3.bucket(&format!("packs-{number}"));
        let kind = match &self.postgres {
            None => Kind::Bucket { url },
            Some(postgres) => {
                Kind::Shared { url, database: postgres.database(&format!("index_{number}")) }
            }
        };
        Site::new(kind, target)
    }
}

impl Site {
    fn new(kind: Kind, target: u64) -> Self {
        let members = if matches!(kind, Kind::Shared { .. }) { 2 } else { 1 };
        let mut site = Self { kind, target, dir: in_memory(), made: 0, folders: Vec::new() };
        site.folders = (0..members).map(|_| site.fresh()).collect();
        site
    }

    pub fn folder(target: u64) -> Self {
        Self::new(Kind::Folder, target)
    }

    pub fn members(&self) -> usize {
        self.folders.len()
    }

    /// Whether all is in the folder.
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Folder)
    }

    pub fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Shared { .. })
    }

    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        let dir = self.dir.path().join(self.made.to_string());
        fs::create_dir(&dir).unwrap();
        dir
    }

    pub fn open(&self, member: usize) -> Result<Arc<Store>, StoreError> {
        let dir = &self.folders[member];
        let mut progress = |_| {};
        let mut options =
            Options { pack_target: self.target, threads: 1, ..Options::new(&mut progress) };
        match &self.kind {
            Kind::Folder => {}
            Kind::Bucket { url } => options.packs = Some(Arc::new(bucket(url, dir))),
            Kind::Shared { url, database } => {
                options.packs = Some(Arc::new(bucket(url, dir)));
                options.index = Some(Arc::new(PostgresIndex::open(database)?));
            }
        }
        Store::open(dir, options)
    }

    /// The process is killed: from now on its folder is a copy of what it was at this moment, or an
    /// empty one where nothing in it matters.
    pub fn kill(&mut self, member: usize) {
        let copy = self.fresh();
        if !self.is_shared() {
            copy_still(&self.folders[member], &copy);
        }
        self.folders[member] = copy;
    }

    pub fn lose_index(&self, member: usize) {
        let _ = fs::remove_dir_all(self.folders[member].join("index"));
    }

    /// Bytes of packs, all in all.
    pub fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::Folder => {
                let files = files(&self.folders[0].join("packs")).unwrap();
                files.iter().map(|path| path.metadata().map_or(0, |data| data.len())).sum()
            }
            Kind::Bucket { url } | Kind::Shared { url, .. } => {
                let packs = bucket(url, self.dir.path());
                let listed = castore::bytes::PackBackend::list(&packs).unwrap();
                listed.iter().filter_map(|listed| listed.len).sum()
            }
        }
    }
}

fn bucket(url: &str, dir: &Path) -> S3Packs {
    S3Packs::open_with_key(url.parse().unwrap(), &dir.join("objects"), 1 << 28, KEY, SECRET)
        .unwrap()
}
