//! A path's NAR, made from its tree and its files as they are read.

use std::io::Write;
use std::sync::Arc;

use castore::Digest;
use castore::tree::{Node, TreeError};
use granary_lazy::{FileRef, LazyPath, View};
use nix_compat::nar::{Writer, writer};
use nix_compat::worker::server;

use crate::answers::Answers;
use crate::refusal::Refusal;

/// How much of a file is read at once.
const PIECE: usize = 1024 * 1024;

/// Why a NAR ended early.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// The client is gone.
    #[error(transparent)]
    Connection(#[from] server::Error),
    /// The path cannot be read.
    #[error("{0}")]
    Nar(String),
}

impl From<writer::Error> for NarError {
    fn from(error: writer::Error) -> Self {
        match error {
            writer::Error::Sink(error) => NarError::Connection(server::Error::Wire(error.into())),
            other => NarError::Nar(other.to_string()),
        }
    }
}

impl From<Refusal> for NarError {
    fn from(refusal: Refusal) -> Self {
        NarError::Nar(refusal.to_string())
    }
}

impl From<TreeError> for NarError {
    fn from(error: TreeError) -> Self {
        NarError::Nar(error.to_string())
    }
}

/// The path itself, if it is a file.
pub fn root_file(path: &LazyPath) -> Option<FileRef> {
    match path.tree.root() {
        Node::File { digest, size, .. } => Some(FileRef { digest: *digest, size: *size }),
        _ => None,
    }
}

/// Writes the NAR of a path.
pub fn write<V: View>(
    to: &mut impl Write,
    answers: &Answers<V>,
    path: &Arc<LazyPath>,
) -> Result<(), NarError> {
    let mut nar = Writing { nar: Writer::new(to), answers, path };
    nar.node(b"", path.tree.root())?;
    nar.nar.finish()?;
    Ok(())
}

struct Writing<'a, W, V> {
    nar: Writer<W>,
    answers: &'a Answers<V>,
    path: &'a Arc<LazyPath>,
}

impl<W: Write, V: View> Writing<'_, W, V> {
    /// Goes no deeper than trees do, which have a bound.
    fn node(&mut self, name: &[u8], node: &Node) -> Result<(), NarError> {
        match node {
            Node::Symlink { target } => Ok(self.nar.symlink(name, target.as_bytes())?),
            Node::File { digest, size, executable } => {
                self.nar.begin_file(name, *executable, *size)?;
                self.contents(FileRef { digest: *digest, size: *size })?;
                Ok(self.nar.end_file()?)
            }
            Node::Directory { digest, .. } => {
                self.nar.enter_directory(name)?;
                self.entries(digest)?;
                Ok(self.nar.leave_directory()?)
            }
        }
    }

    fn entries(&mut self, digest: &Digest) -> Result<(), NarError> {
        let entries = self.path.tree.directory(digest)?.entries();
        entries.iter().try_for_each(|entry| self.node(entry.name.as_bytes(), &entry.node))
    }

    fn contents(&mut self, file: FileRef) -> Result<(), NarError> {
        let (view, mut at) = (self.answers.view(), 0);
        while at < file.size {
            let length = PIECE.min(usize::try_from(file.size - at).unwrap_or(PIECE));
            let bytes = match view.read_now(self.path, file, at, length) {
                Some(bytes) => bytes,
                None => self.answers.block_on(view.read(self.path, file, at, length))?,
            };
            if bytes.is_empty() {
                return Err(NarError::Nar(format!("{} ends early", file.digest)));
            }
            self.nar.write_contents(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }
}
