//! NARs on their way: read from beginning to end, and held against what was announced.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Buf, Bytes};
use granary_api::error::with_causes;
use nar_compression::decoder;
use nix_compat::nixhash::Sha256;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePathHash;
use reqwest::Response;
use sha2::Digest;
use tokio::sync::mpsc;

use super::gather::{self, Nar};
use super::source::{Body, broken};
use super::{Source, SourceError, Trust};

/// Pieces of a body that wait to be unpacked, of some 16 KiB each.
const PIECES: usize = 64;
/// What NARs are read and decompressed in.
const BUFFER: usize = 256 * 1024;

/// Why a NAR did not come.
pub(super) enum Trouble {
    /// The transfer: another try may help.
    Source(SourceError),
    /// What came is not what was announced, or cannot be kept.
    Bad(String),
}

/// What a NAR has to be.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub nar: Nar,
    pub nar_hash: Sha256,
    pub nar_size: u64,
}

/// What reads a NAR, once for each try.
pub(super) type Consumer<T> = Arc<dyn Fn(&mut dyn Read) -> Result<T, String> + Send + Sync>;

impl Source {
    /// Reads a path's NAR through `consume`, which has to read to its end, and verifies it. Nothing
    /// that comes of it is to be used if this fails. `narinfo` is the path's; `content` tells the
    /// hash of the one file that it holds, if it is one.
    pub async fn read_nar<T: Send + 'static>(
        &self,
        narinfo: &Bytes,
        hash: StorePathHash,
        trust: &Trust,
        consume: impl Fn(&mut dyn Read) -> Result<T, String> + Send + Sync + 'static,
        content: impl Fn(&T) -> Option<Sha256>,
    ) -> Result<(PathInfo, T), String> {
        let read = gather::read(narinfo, hash, self, trust);
        let (info, nar) = read.map_err(|(name, why)| format!("{name}: {why}"))?;
        let wanted = nar.content;
        let check = Check { nar, nar_hash: info.nar_hash, nar_size: info.nar_size };
        let consume: Consumer<T> = Arc::new(consume);
        let got = check.fetch(self, &Arc::default(), &consume, || {}).await?;
        match wanted {
            Some(wanted) if content(&got) != Some(wanted) => {
                Err(format!("CA: {wanted} is announced, and another file came"))
            }
            _ => Ok((info, got)),
        }
    }
}

impl Check {
    /// Reads the NAR, again where that may help; `reset` is called in between.
    pub async fn fetch<T: Send + 'static>(
        &self,
        source: &Source,
        downloaded: &Arc<AtomicU64>,
        consume: &Consumer<T>,
        reset: impl Fn(),
    ) -> Result<T, String> {
        let (started, mut failed) = (Instant::now(), 0);
        loop {
            let error = match self.attempt(source, downloaded, consume).await {
                Ok(got) => return Ok(got),
                Err(Trouble::Bad(why)) => {
                    return Err(format!("{why} (its NAR is {})", self.nar.url));
                }
                Err(Trouble::Source(error)) => error,
            };
            failed += 1;
            let pause = source.retry().pause(failed, started.elapsed(), None);
            match pause.filter(|_| error.passes()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(with_causes(&error)),
            }
            reset();
        }
    }

    async fn attempt<T: Send + 'static>(
        &self,
        source: &Source,
        downloaded: &Arc<AtomicU64>,
        consume: &Consumer<T>,
    ) -> Result<T, Trouble> {
        let body = source.nar(&self.nar.url).await.map_err(Trouble::Source)?;
        let (check, consume, downloaded) = (self.clone(), consume.clone(), downloaded.clone());
        let (transfer, unpacked) = match body {
            Body::File(file) => {
                let file = Counted { inner: file, count: downloaded };
                let reading = move || check.run(file, &*consume);
                (Ok(()), tokio::task::spawn_blocking(reading).await)
            }
            Body::Web(response) => {
                let (sender, receiver) = mpsc::channel(PIECES);
                let pieces = Pieces { receiver, rest: Bytes::new() };
                let reading = tokio::task::spawn_blocking(move || check.run(pieces, &*consume));
                let transfer = transfer(response, sender, &downloaded);
                tokio::join!(transfer, reading)
            }
        };
        let unpacked = unpacked.map_err(|error| Trouble::Bad(error.to_string()))?;
        match (transfer, unpacked) {
            (Err(error), _) => Err(Trouble::Source(error)),
            (Ok(()), unpacked) => unpacked.map_err(Trouble::Bad),
        }
    }

    /// Reads and verifies. Blocks.
    fn run<T>(
        &self,
        body: impl Read + Send,
        consume: &dyn Fn(&mut dyn Read) -> Result<T, String>,
    ) -> Result<T, String> {
        let file_size = self.nar.file_size;
        let mut file = Hashed::new(body, file_size.unwrap_or(u64::MAX));
        let (got, nar_hash, nar_size) = {
            let buffered = BufReader::with_capacity(BUFFER, &mut file);
            let plain = decoder(self.nar.compression, buffered);
            let plain = plain.map_err(|error| error.to_string())?;
            let mut plain = Hashed::new(plain, self.nar_size);
            let got = consume(&mut plain)?;
            let length = plain.length;
            (got, plain.hash(), length)
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
        Ok(got)
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
pub(super) struct Hashed<R> {
    inner: R,
    hash: sha2::Sha256,
    length: u64,
    limit: u64,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: sha2::Sha256::new(), length: 0, limit }
    }

    pub fn hash(self) -> Sha256 {
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
