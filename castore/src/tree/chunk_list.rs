//! Chunk lists: which chunks make up a blob.
//!
//! A blob of one unpatched chunk has no list: its digest is the chunk's. A chunk may carry
//! *patches*, bytes laid over it once decoded, so that a chunk can be kept free of the store
//! hashes that differ between two builds of the same thing. Readers apply patches; this version
//! does not write any.

use prost::Message;

use super::wire;
use super::{TreeError, digest_field};
use crate::Digest;

/// A store hash, put back over the plain bytes of a chunk. An offset, then 20 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where in the chunk, in bytes.
    pub offset: u32,
    /// What belongs there.
    pub hash: [u8; 20],
}

/// One chunk of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Digest of the chunk as stored, before patches.
    pub digest: Digest,
    /// Plain length in bytes.
    pub size: u32,
    /// What to lay over it.
    pub patches: Vec<Patch>,
}

/// The chunks of a blob, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkList {
    /// The chunks, in the order of the blob's bytes.
    pub chunks: Vec<ChunkRef>,
}

impl ChunkList {
    /// The blob's length in bytes; `None` beyond 64 bits.
    pub fn size(&self) -> Option<u64> {
        self.chunks.iter().try_fold(0u64, |sum, chunk| sum.checked_add(chunk.size.into()))
    }

    /// The encoding, whose digest is what a tree refers to.
    pub fn encode(&self) -> Vec<u8> {
        let chunks = self.chunks.iter().map(|chunk| wire::ChunkRef {
            digest: chunk.digest.as_bytes().to_vec(),
            size: chunk.size,
            patches: chunk
                .patches
                .iter()
                .map(|patch| wire::Patch { offset: patch.offset, hash: patch.hash.to_vec() })
                .collect(),
        });
        wire::ChunkList { chunks: chunks.collect() }.encode_to_vec()
    }

    /// Reads what [`ChunkList::encode`] wrote; anything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let bad = |source| TreeError::Protobuf { what: "a chunk list", source };
        // Each chunk is named by its digest.
        if wire::count_fields(bytes).map_err(bad)? > bytes.len() / Digest::LEN {
            return Err(TreeError::NotCanonical("a chunk list"));
        }
        let wire = wire::ChunkList::decode(bytes).map_err(bad)?;
        let chunks = wire.chunks.into_iter().map(|chunk| {
            let patches = chunk.patches.into_iter().map(|patch| {
                let hash = patch
                    .hash
                    .try_into()
                    .map_err(|_| TreeError::Inconsistent("a patch has not 20 bytes"))?;
                Ok(Patch { offset: patch.offset, hash })
            });
            Ok(ChunkRef {
                digest: digest_field(&chunk.digest)?,
                size: chunk.size,
                patches: patches.collect::<Result<_, TreeError>>()?,
            })
        });
        let list = Self { chunks: chunks.collect::<Result<_, TreeError>>()? };
        if list.encode() != bytes {
            return Err(TreeError::NotCanonical("a chunk list"));
        }
        Ok(list)
    }
}

impl ChunkRef {
    /// Lays the patches over the chunk's plain bytes.
    pub fn apply_patches(&self, plain: &mut [u8]) -> Result<(), TreeError> {
        for patch in &self.patches {
            let start = patch.offset as usize;
            let place = plain
                .get_mut(start..start + patch.hash.len())
                .ok_or(TreeError::Inconsistent("a patch lies outside of its chunk"))?;
            place.copy_from_slice(&patch.hash);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_patches_reads_back_and_applies() {
        let chunk = ChunkRef {
            digest: Digest::of(b"plain"),
            size: 30,
            patches: vec![Patch { offset: 4, hash: [b'h'; 20] }],
        };
        let list = ChunkList { chunks: vec![chunk.clone()] };
        assert_eq!(ChunkList::decode(&list.encode()).unwrap(), list);
        let mut plain = vec![b'.'; 30];
        chunk.apply_patches(&mut plain).unwrap();
        assert_eq!(plain, b"....hhhhhhhhhhhhhhhhhhhh......");
        assert!(chunk.apply_patches(&mut plain[..20]).is_err());
    }
}
