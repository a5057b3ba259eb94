//! Fetching NARs: unpacked to a temporary directory, and verified while they are.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Buf, Bytes};
use granary_api::error::with_causes;
use nar_compression::decoder;
use nix_compat::nar::Reader;
use nix_compat::nixhash::Sha256;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StorePath, StorePathHash};
use reqwest::Response;
use sha2::Digest;
use tokio::sync::mpsc;

use super::gather::Nar;
use super::source::{Body, broken};
use super::{Gathered, Source, SourceError};
use crate::push::{Brought, Supply};
use crate::unpack::unpack;

/// Pieces of a body that wait to be unpacked, of some 16 KiB each.
const PIECES: usize = 64;
/// What NARs are read and decompressed in.
const BUFFER: usize = 256 * 1024;

/// Brings paths from a source to a directory.
#[derive(Debug)]
pub struct Fetcher<'a> {
    source: &'a Source,
    nars: HashMap<StorePathHash, Nar>,
    dir: PathBuf,
    room: usize,
    downloaded: Arc<AtomicU64>,
}

/// Why a path did not come.
enum Trouble {
    /// The transfer: another try may help.
    Source(SourceError),
    /// What came is not what was announced, or cannot be kept.
    Bad(String),
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
        let (started, mut failed) = (Instant::now(), 0);
        loop {
            let error = match self.attempt(info, nar, &place).await {
                Ok(()) => return Ok(place),
                Err(Trouble::Bad(why)) => return Err(format!("{why} (its NAR is {})", nar.url)),
                Err(Trouble::Source(error)) => error,
            };
            failed += 1;
            let pause = self.source.retry().pause(failed, started.elapsed(), None);
            match pause.filter(|_| error.passes()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(with_causes(&error)),
            }
            remove(&place);
        }
    }

    async fn attempt(&self, info: &PathInfo, nar: &Nar, place: &Path) -> Result<(), Trouble> {
        let body = self.source.nar(&nar.url).await.map_err(Trouble::Source)?;
        let check = Check {
            nar: nar.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            place: place.to_owned(),
        };
        let downloaded = self.downloaded.clone();
        let (transfer, unpacked) = match body {
            Body::File(file) => {
                let file = Counted { inner: file, count: downloaded };
                (Ok(()), tokio::task::spawn_blocking(move || check.run(file)).await)
            }
            Body::Web(response) => {
                let (sender, receiver) = mpsc::channel(PIECES);
                let pieces = Pieces { receiver, rest: Bytes::new() };
                let unpacking = tokio::task::spawn_blocking(move || check.run(pieces));
                let transfer = transfer(response, sender, &downloaded);
                tokio::join!(transfer, unpacking)
            }
        };
        let unpacked = unpacked.map_err(|error| Trouble::Bad(error.to_string()))?;
        match (transfer, unpacked) {
            (Err(error), _) => Err(Trouble::Source(error)),
            (Ok(()), unpacked) => unpacked.map_err(Trouble::Bad),
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

async fn transfer(
    mut response: Response,
    sender: mpsc::Sender<Option<Bytes>>,
    downloaded: &AtomicU64,
) -> Result<(), SourceError> {
    let url = response.url().clone();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => {
                downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
                if sender.send(Some(piece)).await.is_err() {
                    // Whoever unpacks has found something wrong, and says so.
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                // Without it the end would look like that of the NAR.
                let _ = sender.send(None).await;
                return Err(broken(&url, error));
            }
        }
    }
}

/// The pieces of a body, as a reader. `None` among them says that no more will come.
struct Pieces {
    receiver: mpsc::Receiver<Option<Bytes>>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Some(piece)) => self.rest = piece,
                Some(None) => return Err(io::Error::other("the transfer broke")),
            }
        }
        let taken = out.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut out[..taken]);
        Ok(taken)
    }
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Hashes what is read through it, and reads no more than it may.
struct Hashed<R> {
    inner: R,
    hash: sha2::Sha256,
    length: u64,
    limit: u64,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: sha2::Sha256::new(), length: 0, limit }
    }

    fn hash(self) -> Sha256 {
        Sha256::from(<[u8; 32]>::from(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.hash.update(&out[..read]);
        self.length += read as u64;
        if self.length > self.limit {
            let why = format!("it is longer than the {} bytes announced", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(read)
    }
}

/// What a NAR has to be.
struct Check {
    nar: Nar,
    nar_hash: Sha256,
    nar_size: u64,
    place: PathBuf,
}

impl Check {
    /// Unpacks and verifies. What is wrong is removed again. Blocks.
    fn run(self, body: impl Read + Send) -> Result<(), String> {
        let result = self.unpack(body);
        if result.is_err() {
            remove(&self.place);
        }
        result
    }

    fn unpack(&self, body: impl Read + Send) -> Result<(), String> {
        let file_size = self.nar.file_size;
        let mut file = Hashed::new(body, file_size.unwrap_or(u64::MAX));
        let (nar_hash, nar_size) = {
            let buffered = BufReader::with_capacity(BUFFER, &mut file);
            let plain = decoder(self.nar.compression, buffered);
            let plain = plain.map_err(|error| error.to_string())?;
            let mut plain = Hashed::new(plain, self.nar_size);
            unpack(Reader::new(&mut plain), &self.place).map_err(|error| with_causes(&error))?;
            let length = plain.length;
            (plain.hash(), length)
        };
        let length = file.length;
        if let Some(size) = file_size.filter(|size| *size != length) {
            return Err(format!("FileSize: {size} is announced, and {length} came"));
        }
        let file_hash = file.hash();
        if let Some(hash) = self.nar.file_hash.filter(|hash| *hash != file_hash) {
            return Err(format!("FileHash: {hash} is announced, and {file_hash} came"));
        }
        if nar_size != self.nar_size {
            return Err(format!("NarSize: {} is announced, and {nar_size} came", self.nar_size));
        }
        if nar_hash != self.nar_hash {
            return Err(format!("NarHash: {} is announced, and {nar_hash} came", self.nar_hash));
        }
        match self.nar.content {
            Some(wanted) => self.check_content(wanted),
            None => Ok(()),
        }
    }

    fn check_content(&self, wanted: Sha256) -> Result<(), String> {
        let is_file = fs::symlink_metadata(&self.place).is_ok_and(|meta| meta.is_file());
        if !is_file {
            return Err("CA: it is not one file".to_owned());
        }
        let read = File::open(&self.place).and_then(|file| {
            let mut file = Hashed::new(file, u64::MAX);
            io::copy(&mut file, &mut io::sink())?;
            Ok(file.hash())
        });
        let hash =
            read.map_err(|error| format!("cannot read {}: {error}", self.place.display()))?;
        if hash == wanted {
            Ok(())
        } else {
            Err(format!("CA: {wanted} is announced, and {hash} came"))
        }
    }
}
