//! Blobs: a file's bytes become a digest and, where they are more than one chunk, a chunk list.

use bytes::Bytes;

use crate::Digest;
use crate::chunking::{Chunker, MIN_CHUNK};
use crate::tree::{ChunkList, ChunkRef};

/// What a file's bytes are called, as a whole and in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Digest of the whole.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// The chunks, in order; none for an empty file.
    pub chunks: ChunkList,
}

impl Blob {
    /// The encoded chunk list; `None` when the blob is one chunk, or empty.
    pub fn list(&self) -> Option<Vec<u8>> {
        match &self.chunks.chunks[..] {
            [] => None,
            [only] if only.digest == self.digest => None,
            _ => Some(self.chunks.encode()),
        }
    }
}

/// Cuts and hashes a file as its bytes come. Holds at most a megabyte of them.
pub struct BlobBuilder {
    size: u64,
    whole: blake3::Hasher,
    /// `None` for a file that is too short to be cut.
    chunker: Option<Chunker>,
    chunks: ChunkList,
}

impl BlobBuilder {
    /// For a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        let chunker = (size > MIN_CHUNK as u64).then(Chunker::default);
        Self { size: 0, whole: blake3::Hasher::new(), chunker, chunks: ChunkList::default() }
    }

    /// Takes bytes in.
    pub fn write(&mut self, data: &[u8]) {
        self.size += data.len() as u64;
        self.whole.update(data);
        if let Some(chunker) = &mut self.chunker {
            chunker.write(data, |chunk| add(&mut self.chunks, &chunk));
        }
    }

    /// The file is complete.
    pub fn finish(mut self) -> Blob {
        let digest = Digest::from(self.whole.finalize());
        match &mut self.chunker {
            Some(chunker) => chunker.finish(|chunk| add(&mut self.chunks, &chunk)),
            None if self.size == 0 => {}
            None => {
                let size = self.size as u32;
                self.chunks.chunks.push(ChunkRef { digest, size, patches: Vec::new() });
            }
        }
        Blob { digest, size: self.size, chunks: self.chunks }
    }
}

fn add(list: &mut ChunkList, chunk: &Bytes) {
    let (digest, size) = (Digest::of(chunk), chunk.len() as u32);
    list.chunks.push(ChunkRef { digest, size, patches: Vec::new() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_the_same_however_its_bytes_come() {
        let mut data = vec![0; 1_500_000];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        for len in [0, 1, MIN_CHUNK, MIN_CHUNK + 1, 200_000, data.len()] {
            let blob = |step: usize| {
                let mut builder = BlobBuilder::new(len as u64);
                data[..len].chunks(step).for_each(|piece| builder.write(piece));
                builder.finish()
            };
            let whole = blob(data.len());
            assert_eq!(whole, blob(10_007));
            assert_eq!(whole.digest, Digest::of(&data[..len]));
            assert_eq!(whole.chunks.size(), Some(len as u64));
            assert_eq!(whole.list().is_some(), whole.chunks.chunks.len() > 1);
        }
    }
}
