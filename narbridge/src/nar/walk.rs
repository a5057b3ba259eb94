//! The framing of a tree's NAR, and where files come in.

use std::collections::BTreeMap;

use castore::tree::{Directory, Node, Tree};
use castore::{Digest, StoreError};
use nix_compat::nar::{Listing, framing, listing};

use super::NarError;

/// A file whose contents are next in the NAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileAt {
    /// Digest of its contents.
    pub digest: Digest,
    /// Length, never 0: empty files are all framing.
    pub size: u64,
}

enum Step {
    Start,
    Inside,
    Done,
}

/// Walks a tree in NAR order.
pub struct Walk<'t> {
    tree: &'t Tree,
    /// Open directories with the index of the next entry.
    stack: Vec<(&'t Directory, usize)>,
    /// The file that was given out last wants its end.
    open_file: Option<u64>,
    step: Step,
}

impl<'t> Walk<'t> {
    /// Starts at the root.
    pub fn new(tree: &'t Tree) -> Self {
        Self { tree, stack: Vec::new(), open_file: None, step: Step::Start }
    }

    /// Appends framing up to the next file that is not empty, and gives that; `None` once the
    /// framing of the whole NAR has been given.
    pub fn next_file(&mut self, out: &mut Vec<u8>) -> Result<Option<FileAt>, StoreError> {
        if let Some(size) = self.open_file.take() {
            framing::file_close(out, size);
            self.end_node(out);
        }
        if let Step::Start = self.step {
            self.step = Step::Inside;
            framing::start(out);
            let tree = self.tree;
            if let Some(file) = self.node(tree.root(), out)? {
                return Ok(Some(file));
            }
        }
        while let Some((directory, next)) = self.stack.last_mut() {
            let Some(entry) = directory.entries().get(*next) else {
                self.stack.pop();
                framing::directory_close(out);
                self.end_node(out);
                continue;
            };
            *next += 1;
            framing::entry_open(out, entry.name.as_bytes());
            if let Some(file) = self.node(&entry.node, out)? {
                return Ok(Some(file));
            }
        }
        self.step = Step::Done;
        Ok(None)
    }

    /// Starts a node, and ends it too when it is all framing.
    fn node(&mut self, node: &Node, out: &mut Vec<u8>) -> Result<Option<FileAt>, StoreError> {
        match node {
            Node::Directory { digest, .. } => {
                framing::directory_open(out);
                self.stack.push((self.tree.directory(digest)?, 0));
                return Ok(None);
            }
            Node::Symlink { target } => framing::symlink(out, target.as_bytes()),
            Node::File { digest, size, executable } => {
                framing::file_open(out, *executable, *size);
                if *size > 0 {
                    self.open_file = Some(*size);
                    return Ok(Some(FileAt { digest: *digest, size: *size }));
                }
                framing::file_close(out, 0);
            }
        }
        self.end_node(out);
        Ok(None)
    }

    /// A node in a directory is followed by the end of its entry.
    fn end_node(&self, out: &mut Vec<u8>) {
        if !self.stack.is_empty() {
            framing::entry_close(out);
        }
    }
}

/// The listing of a tree's NAR.
pub fn listing(tree: &Tree) -> Result<Listing, NarError> {
    let mut at = 0;
    let mut scratch = Vec::new();
    framing::start(&mut scratch);
    at += scratch.len() as u64;
    Ok(Listing { root: list_node(tree, tree.root(), &mut at, &mut scratch)? })
}

fn text(bytes: &[u8]) -> Result<String, NarError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| NarError::NotUtf8(error.into_bytes()))
}

fn list_node(
    tree: &Tree,
    node: &Node,
    at: &mut u64,
    scratch: &mut Vec<u8>,
) -> Result<listing::Node, NarError> {
    let advance = |at: &mut u64, scratch: &mut Vec<u8>, frame: &dyn Fn(&mut Vec<u8>)| {
        scratch.clear();
        frame(scratch);
        *at += scratch.len() as u64;
    };
    Ok(match node {
        Node::Symlink { target } => {
            advance(at, scratch, &|out| framing::symlink(out, target.as_bytes()));
            listing::Node::Symlink { target: text(target.as_bytes())? }
        }
        Node::File { size, executable, .. } => {
            advance(at, scratch, &|out| framing::file_open(out, *executable, *size));
            let nar_offset = *at;
            *at += size;
            advance(at, scratch, &|out| framing::file_close(out, *size));
            listing::Node::Regular { size: *size, executable: *executable, nar_offset }
        }
        Node::Directory { digest, .. } => {
            advance(at, scratch, &framing::directory_open);
            let mut entries = BTreeMap::new();
            for entry in tree.directory(digest).map_err(StoreError::from)?.entries() {
                let name = entry.name.as_bytes();
                advance(at, scratch, &|out| framing::entry_open(out, name));
                entries.insert(text(name)?, list_node(tree, &entry.node, at, scratch)?);
                advance(at, scratch, &framing::entry_close);
            }
            advance(at, scratch, &framing::directory_close);
            listing::Node::Directory { entries }
        }
    })
}
