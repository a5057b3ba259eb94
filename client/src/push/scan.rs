//! Scanning: a store path on disk becomes a tree, its chunk lists, and the places of its chunks.
//!
//! Nothing of the files is kept. Chunks that turn out to be missing are read again when they are
//! sent, mostly from the page cache.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::Digest;
use castore::blob::{Blob, BlobBuilder};
use castore::tree::{BuildError, Node, TreeBuilder};

/// How much of a file is read at once.
const BUFFER: usize = 256 * 1024;

/// Why a path could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Something could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that no NAR can hold.
    #[error("{} is neither file, directory nor symlink: no store path may hold it", .0.display())]
    Kind(PathBuf),
    /// A file that changed while it was read.
    #[error("{} changed while it was read: store paths must not be written to", .0.display())]
    Changed(PathBuf),
    /// The tree cannot be pushed.
    #[error("{}: {source}", path.display())]
    Tree {
        /// Where.
        path: PathBuf,
        /// Why.
        source: BuildError,
    },
}

/// Where a chunk's bytes are.
#[derive(Clone, Debug)]
pub struct ChunkPlace {
    /// Digest of the bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u32,
    /// The file.
    pub file: Arc<PathBuf>,
    /// From which of its bytes on.
    pub offset: u64,
}

/// A path that was scanned.
#[derive(Debug)]
pub struct Scanned {
    /// The encoded tree.
    pub tree: Vec<u8>,
    /// The encoded chunk lists, sorted by their blobs.
    pub lists: Vec<Vec<u8>>,
    /// Every chunk once, in the order of the NAR.
    pub chunks: Vec<ChunkPlace>,
}

struct Scan<'a> {
    tree: TreeBuilder,
    lists: BTreeMap<Digest, Vec<u8>>,
    chunks: Vec<ChunkPlace>,
    known: HashSet<Digest>,
    /// Files with several names, as in a store whose equal files are linked.
    linked: HashMap<(u64, u64), Digest>,
    buffer: Vec<u8>,
    read: &'a mut dyn FnMut(u64),
}

/// Scans the file system object at `path`. `read` hears of bytes as they are read. Blocks.
pub fn scan(path: &Path, read: &mut dyn FnMut(u64)) -> Result<Scanned, ScanError> {
    let mut scan = Scan {
        tree: TreeBuilder::default(),
        lists: BTreeMap::new(),
        chunks: Vec::new(),
        known: HashSet::new(),
        linked: HashMap::new(),
        buffer: vec![0; BUFFER],
        read,
    };
    scan.node(path, b"")?;
    let tree = scan.tree.finish();
    let (_, tree) = tree.map_err(|source| ScanError::Tree { path: path.to_owned(), source })?;
    Ok(Scanned { tree, lists: scan.lists.into_values().collect(), chunks: scan.chunks })
}

impl Scan<'_> {
    fn node(&mut self, path: &Path, name: &[u8]) -> Result<(), ScanError> {
        let failed = |source| ScanError::Io { path: path.to_owned(), source };
        let built = |source| ScanError::Tree { path: path.to_owned(), source };
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            return self.tree.symlink(name, target.as_os_str().as_bytes()).map_err(built);
        }
        if meta.is_dir() {
            self.tree.enter_directory(name).map_err(built)?;
            let entries = fs::read_dir(path).map_err(failed)?;
            let names: io::Result<Vec<OsString>> =
                entries.map(|entry| Ok(entry?.file_name())).collect();
            let mut names: Vec<Vec<u8>> =
                names.map_err(failed)?.into_iter().map(OsString::into_vec).collect();
            names.sort_unstable();
            for name in names {
                let below = path.join(OsString::from_vec(name.clone()));
                self.node(&below, &name)?;
            }
            return self.tree.leave_directory().map_err(built);
        }
        if !meta.is_file() {
            return Err(ScanError::Kind(path.to_owned()));
        }
        let place = (meta.dev(), meta.ino());
        let digest = match self.linked.get(&place) {
            Some(digest) => {
                (self.read)(meta.len());
                *digest
            }
            None => {
                let digest = self.file(path, meta.len())?;
                if meta.nlink() > 1 {
                    self.linked.insert(place, digest);
                }
                digest
            }
        };
        let executable = meta.mode() & 0o100 != 0;
        let node = Node::File { digest, size: meta.len(), executable };
        let name = self.tree.name(name).map_err(built)?;
        self.tree.place(name, node).map_err(built)
    }

    fn file(&mut self, path: &Path, size: u64) -> Result<Digest, ScanError> {
        let failed = |source| ScanError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut builder = BlobBuilder::new(size);
        let mut left = size;
        loop {
            let read = match file.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            if read == 0 {
                break;
            }
            let within = left.checked_sub(read as u64);
            left = within.ok_or_else(|| ScanError::Changed(path.to_owned()))?;
            builder.write(&self.buffer[..read]);
            (self.read)(read as u64);
        }
        if left > 0 {
            return Err(ScanError::Changed(path.to_owned()));
        }
        let blob = builder.finish();
        self.add(path, &blob);
        Ok(blob.digest)
    }

    fn add(&mut self, path: &Path, blob: &Blob) {
        if let Some(list) = blob.list() {
            self.tree.set_list(blob.digest, Digest::of(&list));
            self.lists.insert(blob.digest, list);
        }
        let (mut file, mut offset) = (None, 0);
        for chunk in &blob.chunks.chunks {
            if self.known.insert(chunk.digest) {
                let file = file.get_or_insert_with(|| Arc::new(path.to_owned())).clone();
                let (digest, size) = (chunk.digest, chunk.size);
                self.chunks.push(ChunkPlace { digest, size, file, offset });
            }
            offset += u64::from(chunk.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castore::tree::Tree;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_path_becomes_a_tree_and_its_chunks_are_where_they_are_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        fs::create_dir_all(path.join("bin")).unwrap();
        let mut noise = vec![0; 700_000];
        blake3_fill(&mut noise);
        fs::write(path.join("bin/tool"), &noise).unwrap();
        fs::set_permissions(path.join("bin/tool"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::hard_link(path.join("bin/tool"), path.join("bin/twin")).unwrap();
        fs::write(path.join("empty"), b"").unwrap();
        symlink("bin/tool", path.join("link")).unwrap();
        let mut read = 0;
        let scanned = scan(&path, &mut |bytes| read += bytes).unwrap();
        assert_eq!(read, 2 * noise.len() as u64);
        let tree = Tree::decode(&scanned.tree).unwrap();
        let tool = tree.lookup(b"bin/tool").unwrap().unwrap();
        assert!(matches!(tool, Node::File { executable: true, size: 700_000, .. }));
        assert_eq!(tree.lookup(b"bin/twin").unwrap(), Some(tool));
        assert!(matches!(tree.lookup(b"empty").unwrap(), Some(Node::File { size: 0, .. })));
        assert!(matches!(tree.lookup(b"link").unwrap(), Some(Node::Symlink { .. })));
        assert_eq!(scanned.lists.len(), 1);
        let total: u64 = scanned.chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
        assert_eq!(total, noise.len() as u64);
        for chunk in &scanned.chunks {
            let from = chunk.offset as usize;
            assert_eq!(Digest::of(&noise[from..from + chunk.size as usize]), chunk.digest);
        }
    }

    #[test]
    fn what_no_nar_can_hold_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(
            matches!(scan(dir.path(), &mut |_| ()), Err(ScanError::Kind(path)) if path == socket)
        );
        let gone = scan(&dir.path().join("gone"), &mut |_| ());
        assert!(gone.unwrap_err().to_string().contains("gone"));
    }

    fn blake3_fill(out: &mut [u8]) {
        for (at, block) in out.chunks_mut(32).enumerate() {
            let digest = Digest::of(&at.to_le_bytes());
            block.copy_from_slice(&digest.as_bytes()[..block.len()]);
        }
    }
}
