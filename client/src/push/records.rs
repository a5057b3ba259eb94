//! Chunks become records: read again, compressed, one behind the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use castore::Digest;
use castore::pack::{FrameEncoder, Kind};

use super::scan::ChunkPlace;

/// What a record takes besides its bytes, at most.
pub(super) const RECORD_OVERHEAD: usize = 128;

/// A chunk to send.
pub(super) struct Chunk {
    /// The path it is sent for, by its index.
    pub path: usize,
    pub source: Source,
}

pub(super) enum Source {
    File(ChunkPlace),
    /// A piece of a manifest.
    Bytes(Digest, Bytes),
}

impl Source {
    pub fn digest(&self) -> &Digest {
        match self {
            Self::File(place) => &place.digest,
            Self::Bytes(digest, _) => digest,
        }
    }
}

impl Chunk {
    /// Length of the plain bytes.
    pub fn size(&self) -> usize {
        match &self.source {
            Source::File(place) => place.size as usize,
            Source::Bytes(_, bytes) => bytes.len(),
        }
    }

    /// Bytes of the path's own files among them.
    pub fn advance(&self) -> u64 {
        match &self.source {
            Source::File(place) => place.size.into(),
            Source::Bytes(..) => 0,
        }
    }
}

/// A chunk whose bytes could not be read, or that the server does not take.
pub(super) struct Unreadable {
    pub path: usize,
    pub why: String,
}

/// The records of these chunks. Those that cannot be read as they were scanned are left
/// out and told. Blocks.
pub(super) fn records(chunks: &[Chunk]) -> io::Result<(Vec<u8>, Vec<Unreadable>)> {
    let (mut out, mut unreadable) = (Vec::new(), Vec::new());
    let (mut encoder, mut plain) = (FrameEncoder::new()?, Vec::new());
    let mut open: Option<(Arc<PathBuf>, File)> = None;
    for chunk in chunks {
        match &chunk.source {
            Source::Bytes(digest, bytes) => {
                encoder.append(&mut out, Kind::Chunk, *digest, bytes)?;
            }
            Source::File(place) => {
                let why = match read(place, &mut open, &mut plain) {
                    // The server would refuse the whole body for it.
                    Ok(()) if Digest::of(&plain) == place.digest => {
                        encoder.append(&mut out, Kind::Chunk, place.digest, &plain)?;
                        continue;
                    }
                    Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        format!("cannot read {}: {error}", place.file.display())
                    }
                    _ => format!(
                        "{} changed after it was scanned: store paths must not be written to",
                        place.file.display()
                    ),
                };
                unreadable.push(Unreadable { path: chunk.path, why });
            }
        }
    }
    Ok((out, unreadable))
}

fn read(
    place: &ChunkPlace,
    open: &mut Option<(Arc<PathBuf>, File)>,
    plain: &mut Vec<u8>,
) -> io::Result<()> {
    plain.resize(place.size as usize, 0);
    match open {
        Some((path, file)) if Arc::ptr_eq(path, &place.file) => {
            file.read_exact_at(plain, place.offset)
        }
        _ => {
            let file = File::open(&*place.file)?;
            file.read_exact_at(plain, place.offset)?;
            *open = Some((place.file.clone(), file));
            Ok(())
        }
    }
}
