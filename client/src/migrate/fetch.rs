//! Fetching NARs: unpacked to a temporary directory, and verified while they are.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use granary_api::error::with_causes;
use nix_compat::nar::Reader;
use nix_compat::nixhash::Sha256;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::gather::Nar;
use super::nar::{Check, Consumer, Hashed};
use super::{Gathered, Source};
use crate::push::{Brought, Supply};
use crate::unpack::unpack;

/// Brings paths from a source to a directory.
#[derive(Debug)]
pub struct Fetcher<'a> {
    source: &'a Source,
    nars: HashMap<StorePathHash, Nar>,
    dir: PathBuf,
    room: usize,
    downloaded: Arc<AtomicU64>,
}

impl<'a> Fetcher<'a> {
    /// Brings what was gathered to `dir`, no more than `room` paths at a time.
    pub fn new(source: &'a Source, gathered: &mut Gathered, dir: &Path, room: usize) -> Self {
        let nars = std::mem::take(&mut gathered.nars);
        Self { source, nars, dir: dir.to_owned(), room, downloaded: Arc::default() }
    }

    /// Bytes of NARs that came, compressed as they are.
    pub fn downloaded(&self) -> u64 {
        self.downloaded.load(Ordering::Relaxed)
    }

    fn place(&self, path: &StorePath) -> PathBuf {
        self.dir.join(path.to_string())
    }

    async fn fetch(&self, info: &PathInfo) -> Result<PathBuf, String> {
        let nar = self.nars.get(&info.store_path.hash());
        let nar = nar.ok_or_else(|| "it was not gathered".to_owned())?;
        let place = self.place(&info.store_path);
        let content = nar.content;
        let to = place.clone();
        let consume: Consumer<()> = Arc::new(move |nar| {
            let unpacked = unpack(Reader::new(nar), &to).map_err(|error| with_causes(&error));
            let checked = unpacked.and_then(|()| match content {
                Some(wanted) => check_content(&to, wanted),
                None => Ok(()),
            });
            if checked.is_err() {
                remove(&to);
            }
            checked
        });
        let check = Check { nar: nar.clone(), nar_hash: info.nar_hash, nar_size: info.nar_size };
        let fetched = check.fetch(self.source, &self.downloaded, &consume, || remove(&place)).await;
        match fetched {
            Ok(()) => Ok(place),
            Err(why) => {
                remove(&place);
                Err(why)
            }
        }
    }
}

impl Supply for Fetcher<'_> {
    fn bring<'a>(&'a self, info: &'a PathInfo) -> Brought<'a> {
        Box::pin(self.fetch(info))
    }

    fn release(&self, path: &StorePath) {
        let place = self.place(path);
        // Many small files take a while; nobody waits for it.
        tokio::task::spawn_blocking(move || remove(&place));
    }

    fn room(&self) -> usize {
        self.room
    }
}

/// What cannot be removed now goes with the directory around it.
fn remove(place: &Path) {
    match fs::symlink_metadata(place) {
        Ok(meta) if meta.is_dir() => drop(fs::remove_dir_all(place)),
        Ok(_) => drop(fs::remove_file(place)),
        Err(_) => {}
    }
}

/// The path must be one file with this hash.
fn check_content(place: &Path, wanted: Sha256) -> Result<(), String> {
    let is_file = fs::symlink_metadata(place).is_ok_and(|meta| meta.is_file());
    if !is_file {
        return Err("CA: it is not one file".to_owned());
    }
    let read = File::open(place).and_then(|file| {
        let mut file = Hashed::new(file, u64::MAX);
        io::copy(&mut file, &mut io::sink())?;
        Ok(file.hash())
    });
    let hash = read.map_err(|error| format!("cannot read {}: {error}", place.display()))?;
    if hash == wanted { Ok(()) } else { Err(format!("CA: {wanted} is announced, and {hash} came")) }
}
