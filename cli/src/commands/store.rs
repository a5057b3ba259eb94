//! `granary store ls|cat`

use std::io::{self, BufWriter, Write};

use castore::tree::{Node, Tree};
use clap::{Args, Subcommand};
use narbridge::{Cache, Storehouse};
use nix_compat::store_path::{StorePath, StorePathHash};
use std::sync::Arc;

use crate::failure::{Context, Failure};
use crate::store_place::StorePlace;

/// `granary store …`
#[derive(Subcommand)]
pub enum Store {
    /// List the paths of a cache, or what is inside one
    Ls {
        #[command(flatten)]
        place: Place,
        /// A store path, or a file or folder inside one; all store paths if not given
        path: Option<String>,
    },
    /// Write a file of a store path to stdout
    Cat {
        #[command(flatten)]
        place: Place,
        /// The file, such as /nix/store/<hash>-hello/bin/hello
        path: String,
    },
}

/// Where to look.
#[derive(Args)]
pub struct Place {
    #[command(flatten)]
    store: StorePlace,
    /// Cache to look into
    #[arg(long, default_value = "default")]
    cache: String,
}

impl Place {
    fn open(&self) -> Result<(Storehouse, Arc<Cache>), Failure> {
        let house = self.store.existing()?.open()?;
        let cache = house.cache(&self.cache);
        let cache = cache.ok_or_else(|| Failure::new(format!("no cache is called {}", self.cache)));
        Ok((house, cache?))
    }
}

impl Store {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Store::Ls { place, path: None } => list_paths(&place),
            Store::Ls { place, path: Some(path) } => list_inside(&place, &path),
            Store::Cat { place, path } => cat(&place, &path),
        }
    }
}

fn list_paths(place: &Place) -> Result<(), Failure> {
    let (_house, cache) = place.open()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let context = || format!("cannot list cache {}", place.cache);
    let mut after = None;
    loop {
        let page = cache.paths(after, 1000).context(context)?;
        let Some(last) = page.last() else { break };
        after = Some(last.hash());
        for path in &page {
            writeln!(out, "{}", path.to_absolute(cache.store_dir())).context(context)?;
        }
    }
    out.flush().context(context)
}

/// Splits `/nix/store/<hash>-name/bin/x` into the path's hash and `bin/x`.
fn split(cache: &Cache, path: &str) -> Result<(StorePathHash, String), Failure> {
    let dir = format!("{}/", cache.store_dir());
    let rest = path.strip_prefix(&dir).unwrap_or(path);
    let (base, inside) = rest.split_once('/').unwrap_or((rest, ""));
    let hash = base.parse::<StorePath>().map(|path| path.hash());
    let hash = hash.or_else(|_| base.parse::<StorePathHash>());
    let hash = hash.context(|| format!("`{path}` is not a store path"))?;
    Ok((hash, inside.to_owned()))
}

fn find_tree(cache: &Cache, path: &str) -> Result<(Arc<Tree>, String), Failure> {
    let (hash, inside) = split(cache, path)?;
    let tree = cache.tree(hash).context(|| format!("cannot read {path}"))?;
    let tree =
        tree.ok_or_else(|| Failure::new(format!("cache {} does not have {path}", cache.name())))?;
    Ok((tree, inside))
}

fn list_inside(place: &Place, path: &str) -> Result<(), Failure> {
    let (_house, cache) = place.open()?;
    let (tree, inside) = find_tree(&cache, path)?;
    let context = || format!("cannot list {path}");
    let node = tree.lookup(inside.as_bytes()).context(context)?;
    let node = node.ok_or_else(|| Failure::new(format!("there is no {path}")))?;
    let mut out = BufWriter::new(io::stdout().lock());
    match node {
        Node::Directory { digest, .. } => {
            for entry in tree.directory(digest).context(context)?.entries() {
                let listed = Listed::of(&entry.node);
                listed.write(&mut out, entry.name.as_bytes()).context(context)?;
            }
        }
        node => Listed::of(node).write(&mut out, path.as_bytes()).context(context)?,
    }
    out.flush().context(context)
}

fn cat(place: &Place, path: &str) -> Result<(), Failure> {
    let (house, cache) = place.open()?;
    let (tree, inside) = find_tree(&cache, path)?;
    let context = || format!("cannot read {path}");
    let store = house.store();
    match tree.lookup(inside.as_bytes()).context(context)? {
        Some(Node::File { digest, size, .. }) => {
            let mut reader = store.reader().context(context)?;
            let (mut out, mut plain) = (io::stdout().lock(), Vec::new());
            for chunk in store.chunks_of(&tree, digest, *size).context(context)? {
                plain.clear();
                reader.append_chunk(&chunk, &mut plain).context(context)?;
                out.write_all(&plain).context(|| "cannot write".to_owned())?;
            }
            Ok(())
        }
        Some(_) => Err(Failure::new(format!("{path} is not a file: see granary store ls"))),
        None => Err(Failure::new(format!("there is no {path}"))),
    }
}

/// A line of a list.
pub enum Listed {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Whether it may be executed.
        executable: bool,
        /// Its length.
        size: u64,
    },
    /// A symlink.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

impl Listed {
    fn of(node: &Node) -> Self {
        match node {
            Node::Directory { .. } => Self::Directory,
            Node::File { executable, size, .. } => {
                Self::File { executable: *executable, size: *size }
            }
            Node::Symlink { target } => Self::Symlink { target: target.as_bytes().to_vec() },
        }
    }

    /// Writes the line: mode, size, name.
    pub fn write(&self, out: &mut impl Write, name: &[u8]) -> io::Result<()> {
        let (mode, size) = match self {
            Self::Directory => ("dr-xr-xr-x", 0),
            Self::File { executable: true, size } => ("-r-xr-xr-x", *size),
            Self::File { executable: false, size } => ("-r--r--r--", *size),
            Self::Symlink { .. } => ("lrwxrwxrwx", 0),
        };
        write!(out, "{mode} {size:>12} ")?;
        out.write_all(if name.is_empty() { b"." } else { name })?;
        if let Self::Symlink { target } = self {
            out.write_all(b" -> ")?;
            out.write_all(target)?;
        }
        out.write_all(b"\n")
    }
}
