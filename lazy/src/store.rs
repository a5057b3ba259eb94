//! A lazy store: a [`View`] on a source.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use castore::tree::ChunkRef;
use granary_api::sync::PathProfile;
use granary_client::migrate::Trust;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use tokio::runtime::Handle;

use crate::chunks::Chunks;
use crate::disk::{DiskCache, NewFile};
use crate::fetch::Fetcher;
use crate::flight::Flights;
use crate::paths::Paths;
use crate::profile::Recorder;
use crate::readahead::ReadAhead;
use crate::source::Source;
use crate::view::{FileRef, LazyPath, View, ViewError};

/// Chunks held in memory, in plain bytes. The kernel holds on to what is read; these are for reads
/// that share a chunk, and for what was fetched ahead.
const MEMORY: u64 = 64 * 1024 * 1024;
/// Files that are put together at once.
const FILE_STEP: usize = 64;

/// What other processes have thrown out takes its place on disk until it is let go of.
const LET_GO_EVERY: Duration = Duration::from_secs(30);

/// How a store is to be.
pub struct Options {
    /// Whose signatures count.
    pub trust: Trust,
    /// Where its paths live.
    pub store_dir: StoreDir,
    /// After how long a read fails that gets no answer.
    pub patience: Duration,
    /// Whether what is touched is recorded for others, and what others touched is fetched ahead.
    pub profiles: bool,
}

/// What went on so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Chunks that were fetched.
    pub chunks: u64,
    /// Their length as they travelled, in bytes.
    pub bytes: u64,
    /// Questions for chunks.
    pub questions: u64,
    /// Chunks that came damaged.
    pub damaged: u64,
}

/// A cache's paths on demand.
pub struct LazyStore {
    paths: Arc<Paths>,
    fetcher: Arc<Fetcher>,
    source: Arc<Source>,
    disk: Option<Arc<DiskCache>>,
    ahead: ReadAhead,
    recorder: Arc<Recorder>,
    profiles: bool,
    chunks: Chunks,
    files: Arc<Flights<castore::Digest, Result<Arc<File>, ViewError>>>,
}

impl LazyStore {
    /// A store on a source. What is fetched is kept in `disk`; a source that is on this machine needs
    /// none. What doors ask for is fetched on `runtime`.
    pub fn new(
        source: Source,
        disk: Option<Arc<DiskCache>>,
        options: Options,
        runtime: Handle,
    ) -> Self {
        let source = Arc::new(source);
        let recorder = Arc::new(Recorder::default());
        let Options { trust, store_dir, patience, profiles } = options;
        let paths =
            Paths::new(source.clone(), store_dir, trust, disk.clone(), recorder.clone(), patience);
        let kept = disk.clone().filter(|_| !source.is_local());
        let fetcher = Fetcher::new(source.clone(), kept, MEMORY, patience, runtime.clone());
        if let Some(disk) = &disk {
            runtime.spawn(look_now_and_then(Arc::downgrade(disk)));
        }
        let chunks = Chunks::new(fetcher.clone(), paths.clone());
        let (ahead, files) = (ReadAhead::new(), Flights::new());
        Self { paths, fetcher, source, disk, ahead, recorder, profiles, chunks, files }
    }

    /// From now on there are only the paths that there are now. Whether they could be listed.
    pub async fn fix(&self) -> Result<bool, ViewError> {
        self.paths.fix().await
    }

    /// Tells the source what was touched since it was last told.
    pub async fn send_profiles(&self) {
        if !self.profiles {
            return;
        }
        let news = self.recorder.news();
        if news.is_empty() {
            return;
        }
        let mut telling = Telling { recorder: &self.recorder, news: &news, told: false };
        match self.source.send_profiles(&news).await {
            Ok(()) => {
                telling.told = true;
                tracing::debug!(paths = news.len(), "told the cache what was touched");
            }
            Err(error) => tracing::debug!(%error, "the cache was not told what was touched"),
        }
    }

    /// What went on so far.
    pub fn statistics(&self) -> Statistics {
        let counts = self.fetcher.counts();
        Statistics {
            chunks: counts.chunks.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            questions: counts.questions.load(Ordering::Relaxed),
            damaged: counts.damaged.load(Ordering::Relaxed),
        }
    }

    /// The chunks of a file that hold `offset..offset + length`, and where the first begins.
    fn covering(chunks: &[ChunkRef], offset: u64, length: usize) -> (u64, &[ChunkRef]) {
        let end = offset.saturating_add(length as u64);
        let (mut at, mut first, mut start, mut last) = (0u64, chunks.len(), 0, 0);
        for (number, chunk) in chunks.iter().enumerate() {
            let next = at + u64::from(chunk.size);
            if next > offset && first == chunks.len() {
                (first, start) = (number, at);
            }
            if at < end {
                last = number + 1;
            }
            at = next;
        }
        (start, chunks.get(first..last).unwrap_or_default())
    }

    fn touch(&self, path: &LazyPath, chunks: &[ChunkRef]) {
        if !self.profiles {
            return;
        }
        let hash = path.info.store_path.hash();
        for chunk in chunks {
            let Some(number) = path.order().number(&chunk.digest) else { continue };
            if let Some(replay) = self.recorder.touch(hash, number) {
                let order = path.order();
                self.fetcher.ahead(replay.into_iter().filter_map(|number| order.chunk(number)));
            }
        }
    }

    /// Puts the bytes together that were asked for.
    fn cut(
        chunks: &[ChunkRef],
        plain: Vec<Bytes>,
        start: u64,
        offset: u64,
        length: usize,
    ) -> Option<Bytes> {
        let skip = (offset - start) as usize;
        if let ([chunk], [only]) = (chunks, &plain[..])
            && chunk.patches.is_empty()
        {
            let from = skip.min(only.len());
            return Some(only.slice(from..only.len().min(skip.saturating_add(length))));
        }
        let mut out = BytesMut::with_capacity(plain.iter().map(Bytes::len).sum());
        for (chunk, plain) in chunks.iter().zip(plain) {
            let before = out.len();
            out.extend_from_slice(&plain);
            if plain.len() != chunk.size as usize
                || chunk.apply_patches(&mut out[before..]).is_err()
            {
                return None;
            }
        }
        let out = out.freeze();
        let from = skip.min(out.len());
        Some(out.slice(from..out.len().min(skip.saturating_add(length))))
    }

    fn unreadable(&self, file: &FileRef, why: &str) -> ViewError {
        let error = ViewError::Unreachable {
            what: format!("file {}", file.digest),
            source_name: self.paths.source_name().to_owned(),
            why: why.to_owned(),
        };
        tracing::error!("{error}");
        error
    }

    fn plan_ahead(
        &self,
        path: &LazyPath,
        file: &FileRef,
        chunks: &[ChunkRef],
        missed: Option<&ChunkRef>,
        (offset, length): (u64, usize),
    ) {
        let end = offset.saturating_add(length as u64);
        let size = |chunk: &ChunkRef| (chunk.digest, chunk.size);
        self.fetcher.ahead(self.ahead.of_file(file, chunks, offset, end).map(size));
        if let Some(missed) = missed {
            let round_trip = self.fetcher.counts().round_trip.load(Ordering::Relaxed);
            self.fetcher.ahead(self.ahead.neighbours(path, &missed.digest, round_trip));
        }
    }
}

/// Remembers that the source still has to be told, also when nobody waits for it any more.
struct Telling<'a> {
    recorder: &'a Recorder,
    news: &'a [PathProfile],
    told: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.recorder.not_told(self.news);
        }
    }
}

impl View for LazyStore {
    fn store_dir(&self) -> &StoreDir {
        self.paths.store_dir()
    }

    fn name(&self) -> &str {
        self.paths.source_name()
    }

    async fn paths(&self) -> Result<Option<Arc<Vec<StorePath>>>, ViewError> {
        self.paths.list().await
    }

    async fn info(&self, hash: StorePathHash) -> Result<Option<Arc<PathInfo>>, ViewError> {
        self.paths.info(hash).await
    }

    async fn path(&self, hash: StorePathHash) -> Result<Option<Arc<LazyPath>>, ViewError> {
        self.paths.tree(hash).await
    }

    fn path_now(&self, hash: StorePathHash) -> Option<Option<Arc<LazyPath>>> {
        self.paths.tree_now(hash)
    }

    async fn read(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, ViewError> {
        let none = || self.unreadable(&file, "its chunks are not known");
        let chunks = path.chunks(&file).ok_or_else(none)?;
        let (start, wanted) = Self::covering(&chunks, offset, length);
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let plain = if path.is_whole() {
            self.chunks.get(path, wanted).await?
        } else {
            let missed = wanted.iter().find(|chunk| !self.fetcher.is_coming(&chunk.digest));
            let getting = self.chunks.begin(wanted).await;
            self.touch(path, wanted);
            self.plan_ahead(path, &file, &chunks, missed, (offset, length));
            self.chunks.finish(getting).await?
        };
        let cut = Self::cut(wanted, plain, start, offset, length);
        cut.ok_or_else(|| self.unreadable(&file, "its chunks are not as long as its list says"))
    }

    fn read_now(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Option<Bytes> {
        let bytes = self.peek(path, file, offset, length)?;
        let chunks = path.chunks(&file)?;
        if !path.is_whole() {
            let (_, wanted) = Self::covering(&chunks, offset, length);
            self.touch(path, wanted);
            self.plan_ahead(path, &file, &chunks, None, (offset, length));
            self.fetcher.ask();
        }
        Some(bytes)
    }

    fn peek(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
        offset: u64,
        length: usize,
    ) -> Option<Bytes> {
        let chunks = path.chunks(&file)?;
        let (start, wanted) = Self::covering(&chunks, offset, length);
        if wanted.is_empty() {
            return Some(Bytes::new());
        }
        let plain: Option<Vec<Bytes>> =
            wanted.iter().map(|chunk| self.fetcher.here(&chunk.digest)).collect();
        Self::cut(wanted, plain?, start, offset, length)
    }

    async fn materialise(
        &self,
        path: &Arc<LazyPath>,
        file: FileRef,
    ) -> Result<Arc<File>, ViewError> {
        let no_disk = || self.unreadable(&file, "whole files need a cache directory");
        let disk = self.disk.clone().ok_or_else(no_disk)?;
        let (all, path) = (self.chunks.clone(), path.clone());
        let work = move || async move {
            let cache = disk.clone();
            let failed = |error: io::Error| {
                cache.give_way();
                let what = format!("file {} of {}", file.digest, path.info.store_path);
                let error = ViewError::NoRoom { what, why: error.to_string() };
                tracing::warn!("{error}");
                error
            };
            let kept = disk.clone();
            let kept = tokio::task::spawn_blocking(move || kept.whole_file(&file.digest)).await;
            if let Ok(Some(file)) = kept {
                return Ok(file);
            }
            let mut new = disk.new_file(&file.digest).map_err(failed)?;
            let chunks = path.chunks(&file).unwrap_or_default();
            for step in chunks.chunks(FILE_STEP) {
                let (plain, step) = (all.get(&path, step).await?, step.to_vec());
                new = blocking(move || write_step(new, &step, plain)).await.map_err(failed)?;
            }
            let length = new.file.metadata().map_err(failed)?.len();
            if length != file.size {
                return Err(failed(io::Error::other("its chunks do not add up to it")));
            }
            blocking(move || disk.keep_file(&file.digest, new)).await.map_err(failed)
        };
        let done = self.files.join(file.digest, work).await;
        done.unwrap_or_else(|| Err(self.unreadable(&file, "the mount is ending")))
    }
}

/// Lets go of what is not in the cache any more, as long as the cache is in use.
async fn look_now_and_then(disk: Weak<DiskCache>) {
    loop {
        tokio::time::sleep(LET_GO_EVERY).await;
        let Some(disk) = disk.upgrade() else { return };
        if let Err(error) = blocking(move || disk.look_again()).await {
            tracing::debug!(%error, "the cache could not be listed");
        }
    }
}

/// Appends chunks to a file.
fn write_step(mut new: NewFile, chunks: &[ChunkRef], plain: Vec<Bytes>) -> io::Result<NewFile> {
    for (chunk, plain) in chunks.iter().zip(plain) {
        let mut plain = Vec::from(plain);
        chunk.apply_patches(&mut plain).map_err(io::Error::other)?;
        new.file.write_all(&plain)?;
    }
    Ok(new)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
