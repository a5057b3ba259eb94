//! NARs: uploaded under the hash of their file, served under that name and by NAR hash.

use std::fmt;
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use castore::gc::Flight;
use castore::tree::Tree;
use castore::{Cause, Expected, Store, StoreError, Transaction, Uploaded};
use nix_compat::nixhash::Sha256;
use prost::Message;

use super::{Cache, CacheError};
use crate::broken::Broken;
use crate::compression::Compression;
use crate::ingest::{Announced, IngestError, ingest};
use crate::nar::{
    ByteRange, EncodedNar, NarBody, NarError, PlainNar, TryWindow, ZstdNar, ZstdPlan,
};
use crate::records::{
    NarRecord, RecordError, broken_key, decode, digest, nar_key, nar_sender_key, sha256,
};

/// The file name of a NAR: `<sha256 in nix32>.nar`, with a suffix for its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarName {
    /// Hash of the file.
    pub hash: Sha256,
    /// What the suffix says; `None` for a bare `.nar`, which may be plain or gzip.
    pub compression: Option<Compression>,
}

/// A text that is not the file name of a NAR.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a NAR's name: `<sha256 in nix32>.nar`, `.nar.xz` and so on are wanted")]
pub struct InvalidNarName(String);

impl FromStr for NarName {
    type Err = InvalidNarName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNarName(text.to_owned());
        let (hash, suffix) = text.split_once('.').ok_or_else(invalid)?;
        let hash = Sha256::from_nix32(hash).map_err(|_| invalid())?;
        let compression = Compression::from_file_name(text);
        let expected = compression.map_or(".nar", Compression::nar_suffix);
        if expected[1..] != *suffix {
            return Err(invalid());
        }
        Ok(Self { hash, compression })
    }
}

impl fmt::Display for NarName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.compression.map_or(".nar", Compression::nar_suffix);
        write!(f, "{}{suffix}", self.hash.to_nix32())
    }
}

/// Why a NAR was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarUploadError {
    /// It could not be taken in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The body is not the one that was announced.
    #[error(
        "FileHash: the body's SHA-256 is {found}, and the URL says {expected}; \
         the upload was damaged on its way, or cut"
    )]
    FileHash {
        /// What the URL says.
        expected: Sha256,
        /// What came.
        found: Sha256,
    },
    /// It could not be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was uploaded under a name.
#[derive(Clone, Debug)]
pub struct UploadedNar {
    /// The root node, encoded.
    pub(super) root: Vec<u8>,
    pub(super) tree: castore::Digest,
    /// Hash of the NAR.
    pub nar_hash: Sha256,
    /// Length of the NAR.
    pub nar_size: u64,
    /// How the uploaded file was compressed.
    pub compression: Compression,
    /// Length of the uploaded file.
    pub file_size: u64,
    pub(super) source: Source,
}

/// How it is known that a tree is there.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The collector's epoch at a time when it was.
    pub since: u64,
    /// The upload that brought it; `None` where a fact named it at that time.
    pub flight: Option<Arc<Flight>>,
}

impl Source {
    /// It was uploaded.
    pub fn of(uploaded: &Uploaded) -> Self {
        Self::flown(uploaded.flight.clone())
    }

    /// It came with this upload.
    pub fn flown(flight: Arc<Flight>) -> Self {
        Self { since: flight.epoch(), flight: Some(flight) }
    }
}

impl UploadedNar {
    pub(super) fn to_record(&self, uploaded: u64, published: bool) -> NarRecord {
        NarRecord {
            root: self.root.clone(),
            tree: self.tree.as_bytes().to_vec(),
            nar_hash: self.nar_hash.as_bytes().to_vec(),
            nar_size: self.nar_size,
            compression: self.compression.name().to_owned(),
            file_size: self.file_size,
            uploaded,
            published,
        }
    }

    fn from_record(record: NarRecord, since: u64) -> Result<Self, RecordError> {
        let what = "an uploaded NAR";
        let compression = Compression::from_narinfo(Some(&record.compression));
        Ok(Self {
            tree: digest(what, &record.tree)?,
            nar_hash: sha256(what, &record.nar_hash)?,
            nar_size: record.nar_size,
            compression: compression.map_err(|error| RecordError::new(what, error))?,
            file_size: record.file_size,
            root: record.root,
            source: Source { since, flight: None },
        })
    }
}

impl Cache {
    /// Takes in the NAR that a client uploads under `name`. When this returns it is durable, and a
    /// narinfo may refer to it, also after a restart. `blind` is the subject of a client who may not
    /// read the cache; only what was sent by the same is there for narinfos of such clients. Blocks.
    pub fn upload_nar(
        &self,
        name: NarName,
        body: impl Read + Send,
        max_nar_size: u64,
        blind: Option<&str>,
    ) -> Result<UploadedNar, NarUploadError> {
        let announced =
            Announced { compression: name.compression, max_nar_size, holder: self.holder() };
        let ingested = ingest(&self.store, body, announced)?;
        if ingested.file_hash != name.hash {
            let (expected, found) = (name.hash, ingested.file_hash);
            return Err(NarUploadError::FileHash { expected, found });
        }
        let uploaded = UploadedNar {
            root: ingested.uploaded.root.encode(),
            tree: ingested.uploaded.tree,
            nar_hash: ingested.nar_hash,
            nar_size: ingested.nar_size,
            compression: ingested.compression,
            file_size: ingested.file_size,
            source: Source::of(&ingested.uploaded),
        };
        let Source { since, flight } = &uploaded.source;
        let (tree, holder) = (&uploaded.tree, Some(self.holder()));
        self.store.commit_secured(tree, holder, *since, flight.as_deref(), || {
            let mut transaction = Transaction::default();
            let key = nar_key(self.number, name.hash);
            transaction.put(
                key,
                uploaded.to_record(self.store.now(), false).encode_to_vec(),
                Expected::Anything,
            );
            if let Some(subject) = blind {
                let key = nar_sender_key(self.number, name.hash, subject);
                transaction.put(key, Vec::new(), Expected::Anything);
            }
            if self.broken.may_have(&uploaded.tree) {
                transaction.derive(&broken_key(&uploaded.tree), None);
            }
            transaction
        })?;
        self.broken.mended(&uploaded.tree);
        Ok(uploaded)
    }

    /// What was uploaded under that hash, or published with that NAR hash.
    pub(super) fn uploaded_nar(&self, hash: Sha256) -> Result<Option<UploadedNar>, CacheError> {
        // Before the fact is read: what it names is there from then on.
        let since = self.store.epoch();
        let Some(fact) = self.store.fact(&nar_key(self.number, hash))? else {
            return Ok(None);
        };
        let record = decode("an uploaded NAR", &fact.value)?;
        Ok(Some(UploadedNar::from_record(record, since)?))
    }

    /// Whether that subject has uploaded the NAR of that name without being able to read the cache.
    pub(super) fn has_sent_nar(&self, hash: Sha256, subject: &str) -> Result<bool, CacheError> {
        let key = nar_sender_key(self.number, hash, subject);
        Ok(self.store.fact(&key)?.is_some())
    }

    /// The NAR that is to be had under `name`; `None` when there is none.
    pub fn nar(&self, name: NarName) -> Result<Option<NarFile>, CacheError> {
        let Some(nar) = self.uploaded_nar(name.hash)? else {
            return Ok(None);
        };
        let by_nar_hash = nar.nar_hash == name.hash;
        let compression = match name.compression {
            None => nar.compression,
            // By its own hash every NAR is to be had plain and as zstd.
            Some(Compression::Zstd) if by_nar_hash => Compression::Zstd,
            Some(asked) if asked == nar.compression => asked,
            Some(_) => return Ok(None),
        };
        let tree = nar.tree;
        if self.broken.has(&tree) {
            return Ok(None);
        }
        let made = self.nar_file(nar, compression);
        made.inspect_err(|error| self.broken.suspect_of(&tree, error)).map(Some)
    }

    fn nar_file(&self, nar: UploadedNar, compression: Compression) -> Result<NarFile, CacheError> {
        let tree = self.store.tree(&nar.tree)?;
        let (mut zstd, mut len) = (None, Some(nar.nar_size));
        match compression {
            Compression::None => {}
            Compression::Zstd => {
                let plan = self.zstd_plan(&nar.tree, &tree)?;
                len = Some(plan.total_len());
                zstd = Some(plan);
            }
            other => len = EncodedNar::encoded_len(other, nar.nar_size)?,
        }
        let UploadedNar { nar_size, nar_hash, .. } = nar;
        let (store, broken) = (self.store.clone(), self.broken.clone());
        let tree_digest = nar.tree;
        Ok(NarFile { store, broken, tree_digest, tree, nar_size, nar_hash, compression, len, zstd })
    }

    /// How the NAR of a tree is put together from stored frames. Plans in use are remembered.
    pub(super) fn zstd_plan(
        &self,
        digest: &castore::Digest,
        tree: &Tree,
    ) -> Result<Arc<ZstdPlan>, NarError> {
        if let Some(plan) = self.plans.get(digest).filter(|plan| plan.is_current(&self.store)) {
            return Ok(plan);
        }
        let plan = Arc::new(ZstdPlan::new(&self.store, tree)?);
        self.plans.insert(*digest, plan.clone());
        Ok(plan)
    }
}

/// A NAR in one representation, ready to be read.
#[derive(Clone)]
pub struct NarFile {
    store: Arc<Store>,
    broken: Arc<Broken>,
    tree_digest: castore::Digest,
    tree: Arc<Tree>,
    nar_size: u64,
    nar_hash: Sha256,
    compression: Compression,
    len: Option<u64>,
    zstd: Option<Arc<ZstdPlan>>,
}

impl NarFile {
    /// Length of the representation; `None` where only encoding tells.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether it has no bytes: never.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// How it is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Hash of the NAR.
    pub fn nar_hash(&self) -> Sha256 {
        self.nar_hash
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn tree_digest(&self) -> &castore::Digest {
        &self.tree_digest
    }

    /// The bytes, or a range of them.
    pub fn body(self, range: Option<ByteRange>) -> Result<Box<dyn NarBody>, NarError> {
        let Self { store, broken, tree_digest, tree, nar_size, compression, len, zstd, .. } = self;
        let range = range.unwrap_or(0..len.unwrap_or(u64::MAX));
        let body: Box<dyn NarBody> = if let Some(plan) = zstd {
            Box::new(ZstdNar::new(store, plan, range))
        } else {
            match compression {
                Compression::None => Box::new(PlainNar::new(store, tree, range)?),
                other => Box::new(EncodedNar::new(store, tree, other, nar_size, range)?),
            }
        };
        Ok(Box::new(Watched { body, tree: tree_digest, broken }))
    }
}

/// A body whose tree is broken from now on when it turns out not to be all there.
struct Watched {
    body: Box<dyn NarBody>,
    tree: castore::Digest,
    broken: Arc<Broken>,
}

impl NarBody for Watched {
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        let window = self.body.next_window();
        window.inspect_err(|error| self.broken.suspect_after(&self.tree, error))
    }

    fn try_next_window(&mut self) -> Result<TryWindow, NarError> {
        match self.body.try_next_window() {
            // Looking into it takes time.
            Err(NarError::Store(error)) if error.cause() == Cause::Lost => {
                Ok(TryWindow::WouldBlock)
            }
            tried => tried,
        }
    }

    fn is_done(&self) -> bool {
        self.body.is_done()
    }
}
