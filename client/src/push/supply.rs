//! Where the files of paths come from: they are here, or are brought for as long as they are pushed.

use std::future::ready;
use std::path::PathBuf;
use std::pin::Pin;

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::Places;

/// Where the files are, or why they could not be had.
pub type Brought<'a> = Pin<Box<dyn Future<Output = Result<PathBuf, String>> + Send + 'a>>;

/// Brings the files of paths that are not on this machine.
pub trait Supply: Send + Sync {
    /// Brings the files of a path.
    fn bring<'a>(&'a self, info: &'a PathInfo) -> Brought<'a>;

    /// The path is published, or has failed: its files are not needed any more.
    fn release(&self, path: &StorePath);

    /// How many paths there is room for at the same time, at least one.
    fn room(&self) -> usize;
}

/// Files that are here, and where.
pub struct Here<'a>(pub Places<'a>);

impl Supply for Here<'_> {
    fn bring<'a>(&'a self, info: &'a PathInfo) -> Brought<'a> {
        Box::pin(ready(Ok((self.0)(&info.store_path))))
    }

    fn release(&self, _path: &StorePath) {}

    fn room(&self) -> usize {
        usize::MAX
    }
}
