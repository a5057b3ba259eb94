//! A path in one step: its NAR as a stream, with what is said of it.
//!
//! Nothing is visible until the whole stream has been read and found to be the NAR that was
//! announced.

use std::io::Read;

use nix_compat::narinfo::NarInfo;

use super::nars::{Source, UploadedNar};
use super::publish::wrong;
use super::{Cache, PublishError, Pusher};
use crate::compression::Compression;
use crate::ingest::{Announced, IngestError, ingest};

/// Why a path was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishNarError {
    /// The NAR could not be taken in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// What was said of the path is not so.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What became of a NAR that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedNar {
    /// Plain bytes of its files.
    pub plain: u64,
    /// So many of them the cache held before.
    pub known: u64,
    /// Length of the NAR as it is served, in zstd.
    pub file_size: u64,
}

impl Cache {
    /// Publishes the path whose plain NAR is `body`. `info` says what it is to be; its URL does not
    /// matter. When this returns the path is durable and visible. Blocks.
    pub fn publish_nar(
        &self,
        info: &NarInfo<'_>,
        body: impl Read + Send,
        pusher: &Pusher,
        max_nar_size: u64,
    ) -> Result<PublishedNar, PublishNarError> {
        if info.nar_size > max_nar_size {
            return Err(IngestError::TooLarge { limit: max_nar_size }.into());
        }
        self.check_content_address(info, info.nar_hash)?;
        let announced = Announced {
            compression: Some(Compression::None),
            max_nar_size: info.nar_size,
            holder: self.holder(),
        };
        let ingested = ingest(&self.store, body, announced).map_err(|error| match error {
            IngestError::TooLarge { limit } => {
                wrong("NarSize", format!("{limit} is claimed, and more came")).into()
            }
            error => PublishNarError::Ingest(error),
        })?;
        if ingested.nar_size != info.nar_size {
            let why = format!("{} is claimed, and {} came", info.nar_size, ingested.nar_size);
            return Err(wrong("NarSize", why).into());
        }
        if ingested.nar_hash != info.nar_hash {
            let why = format!("{} is claimed, and {} came", info.nar_hash, ingested.nar_hash);
            return Err(wrong("NarHash", why).into());
        }
        let nar = UploadedNar {
            root: ingested.uploaded.root.encode(),
            tree: ingested.uploaded.tree,
            nar_hash: ingested.nar_hash,
            nar_size: ingested.nar_size,
            compression: Compression::None,
            file_size: ingested.nar_size,
            source: Source::of(&ingested.uploaded),
        };
        let file_size = self.record(info, &nar, pusher.uploader())?;
        let castore::Uploaded { plain, known, .. } = ingested.uploaded;
        Ok(PublishedNar { plain, known, file_size })
    }
}
