//! NAR to tree, in one streaming pass.
//!
//! The body is decompressed, hashed, parsed and cut as it comes; nothing of it is kept but what the
//! castore holds in flight. Nothing is visible until the caller commits a fact that names the tree.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use castore::{Holder, Store, UploadError, Uploaded};
use nix_compat::nar::{self, Event};
use nix_compat::nixhash::Sha256;
use sha2::Digest;

use crate::compression::{self, Compression, SNIFF_LEN, decoder};

/// How much of a body is read at once.
const BUFFER: usize = 128 * 1024;

/// Why a NAR was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The body ended early or could not be read.
    #[error("the upload could not be read: {0}")]
    Body(#[source] io::Error),
    /// The body is not what its compression says.
    #[error("the upload is not valid: {0}")]
    Compression(#[source] compression::Error),
    /// The compression cannot be told.
    #[error("the upload is neither a NAR nor compressed in a known way")]
    UnknownCompression,
    /// The body is not a NAR.
    #[error("{0}")]
    Nar(#[source] nar::reader::Error),
    /// The NAR is longer than is allowed here.
    #[error("the NAR is longer than the {limit} bytes that this server takes (--max-nar-size)")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The tree cannot be stored.
    #[error(transparent)]
    Upload(#[from] UploadError),
}

/// A NAR that was taken in.
#[derive(Clone, Debug)]
pub struct Ingested {
    /// The tree.
    pub uploaded: Uploaded,
    /// Hash of the NAR.
    pub nar_hash: Sha256,
    /// Length of the NAR.
    pub nar_size: u64,
    /// How it was compressed.
    pub compression: Compression,
    /// Hash of the body as it came.
    pub file_hash: Sha256,
    /// Length of the body.
    pub file_size: u64,
}

/// What is known of a NAR before it comes.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    /// Its compression; `None` to find out from its first bytes.
    pub compression: Option<Compression>,
    /// The most plain bytes to take.
    pub max_nar_size: u64,
    /// Who gets claims to its chunks.
    pub holder: Holder,
}

/// Takes a NAR in. Blocks; belongs on a thread that may wait.
pub fn ingest(
    store: &Arc<Store>,
    mut body: impl Read + Send,
    announced: Announced,
) -> Result<Ingested, IngestError> {
    let (compression, first) = match announced.compression {
        Some(compression) => (compression, io::Cursor::default()),
        None => sniff(&mut body)?,
    };
    // A plain NAR is its own file: one hash serves for both.
    let hasher = (compression != Compression::None).then(sha2::Sha256::new);
    let mut file = FileHash { inner: first.chain(body), hasher, size: 0 };
    let (nar_hash, tree) = {
        let body = BufReader::with_capacity(BUFFER, &mut file);
        let inner = decoder(compression, body).map_err(IngestError::Compression)?;
        let limit = announced.max_nar_size;
        let mut plain = NarHash { inner, hasher: sha2::Sha256::new(), left: limit };
        let tree =
            read_tree(store, &mut plain, announced.holder).map_err(|error| refine(error, limit));
        (Sha256::from(<[u8; 32]>::from(plain.hasher.finalize())), tree)
    };
    let (uploaded, nar_size) = tree?;
    let file_hash = match file.hasher {
        Some(hasher) => Sha256::from(<[u8; 32]>::from(hasher.finalize())),
        None => nar_hash,
    };
    Ok(Ingested { uploaded, nar_hash, nar_size, compression, file_hash, file_size: file.size })
}

/// Tells the compression from the first bytes, which it also gives back.
fn sniff(body: &mut impl Read) -> Result<(Compression, io::Cursor<Vec<u8>>), IngestError> {
    let mut first = Vec::with_capacity(SNIFF_LEN);
    body.take(SNIFF_LEN as u64).read_to_end(&mut first).map_err(IngestError::Body)?;
    // What is too short for anything is for the NAR reader to call truncated.
    let compression = match Compression::sniff(&first) {
        None if first.len() < SNIFF_LEN => Compression::None,
        found => found.ok_or(IngestError::UnknownCompression)?,
    };
    Ok((compression, io::Cursor::new(first)))
}

fn read_tree(
    store: &Arc<Store>,
    plain: &mut impl Read,
    holder: Holder,
) -> Result<(Uploaded, u64), IngestError> {
    let mut nar = nar::Reader::new(plain);
    let upload = store.upload().map_err(UploadError::from)?;
    let mut upload = upload.held_by(holder);
    while let Some(event) = nar.next().map_err(IngestError::Nar)? {
        match event {
            Event::EnterDirectory { name } => upload.enter_directory(name)?,
            Event::LeaveDirectory => upload.leave_directory()?,
            Event::Symlink { name, target } => upload.symlink(name, target)?,
            Event::File { name, executable, size } => {
                upload.start_file(name, executable, size)?;
                loop {
                    let contents = nar.fill_contents().map_err(IngestError::Nar)?;
                    if contents.is_empty() {
                        break;
                    }
                    upload.write(contents)?;
                    let taken = contents.len();
                    nar.consume_contents(taken);
                }
            }
        }
    }
    let size = nar.finish().map_err(IngestError::Nar)?;
    Ok((upload.finish()?, size))
}

/// Says whose fault an error was that came through the NAR reader.
fn refine(error: IngestError, limit: u64) -> IngestError {
    match error {
        IngestError::Nar(nar::reader::Error::Io { source, .. }) => {
            match compression::Error::from(source) {
                compression::Error::Read(source) if is_too_large(&source) => {
                    IngestError::TooLarge { limit }
                }
                compression::Error::Read(source) => IngestError::Body(source),
                error => IngestError::Compression(error),
            }
        }
        error => error,
    }
}

/// Hashes and counts the body as it comes. A plain NAR is hashed only once, as a NAR.
struct FileHash<R> {
    inner: R,
    hasher: Option<sha2::Sha256>,
    size: u64,
}

impl<R: Read> Read for FileHash<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.size += read as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}

/// Hashes the NAR and bounds it.
struct NarHash<R> {
    inner: R,
    hasher: sha2::Sha256,
    left: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the NAR is too long")]
struct TooLarge;

fn is_too_large(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooLarge>())
}

impl<R: Read> Read for NarHash<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or(io::Error::other(TooLarge))?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
