//! Messages of the push protocol: made from what a scan found, and read from answers.

use bytes::{Buf, Bytes};
use castore::Digest;
use castore::chunking::MAX_CHUNK;
use granary_api::push::{MAX_INLINE_MANIFEST, Manifest, Outcome, PathOutcome, PublishPath};
use nix_compat::path_info::PathInfo;
use prost::Message;

use super::PushError;

/// A path's manifest: inside its message, or in pieces that travel as chunks.
pub(super) struct Prepared {
    inline: Vec<u8>,
    pub pieces: Vec<(Digest, Bytes)>,
}

impl Prepared {
    pub fn new(tree: Vec<u8>, lists: Vec<Vec<u8>>) -> Self {
        let inline = Manifest { tree, lists }.encode_to_vec();
        if inline.len() <= MAX_INLINE_MANIFEST {
            return Self { inline, pieces: Vec::new() };
        }
        let mut rest = Bytes::from(inline);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_CHUNK));
            pieces.push((Digest::of(&piece), piece));
        }
        Self { inline: Vec::new(), pieces }
    }

    /// About how much memory it takes.
    pub fn weight(&self) -> usize {
        self.inline.len() + self.pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>()
    }

    /// How long the message will be, at most or about.
    pub fn message_len(&self, info: &PathInfo) -> usize {
        self.inline.len() + 1024 + 80 * info.references.len() + 34 * self.pieces.len()
    }

    /// Appends the message that publishes the path.
    pub fn append(&self, info: &PathInfo, out: &mut Vec<u8>) {
        let message = PublishPath {
            store_path: info.store_path.to_string(),
            nar_hash: info.nar_hash.as_bytes().to_vec(),
            nar_size: info.nar_size,
            references: info.references.iter().map(ToString::to_string).collect(),
            deriver: info.deriver.as_ref().map(ToString::to_string).unwrap_or_default(),
            signatures: info.signatures.iter().map(ToString::to_string).collect(),
            ca: info.ca.as_ref().map(ToString::to_string).unwrap_or_default(),
            manifest: self.inline.clone(),
            manifest_chunks: self.pieces.iter().map(|(d, _)| d.as_bytes().to_vec()).collect(),
        };
        out.extend_from_slice(&message.encode_length_delimited_to_vec());
    }
}

/// What became of each path; `Unknown` says only that the server is at work.
pub(super) fn outcomes(mut answer: Bytes) -> Result<Vec<PathOutcome>, PushError> {
    let mut outcomes = Vec::new();
    while answer.has_remaining() {
        let outcome = PathOutcome::decode_length_delimited(&mut answer)
            .map_err(|_| PushError::Protocol("an outcome cannot be read"))?;
        if outcome.outcome() != Outcome::Unknown {
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}
