//! The other files that clients keep in a cache: build logs, debug info, realisations. They are
//! given back as they came, for as long as there is what they are about ([`crate::gc`]).

use std::sync::Arc;

use castore::tree::{ChunkRef, Node};
use castore::{Expected, Store, StoreError, Transaction};
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use prost::Message;

use super::nars::{NarName, Source};
use super::{Cache, CacheError, Tag};
use crate::nar::NarError;
use crate::records::{FileRecord, RecordError, decode, digest, file_key, hash_part};

/// The path of such a file below the cache: one of the folders Nix uses, and a plain name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(String);

/// A path that no such file can have.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of a log, debug info or realisation")]
pub struct InvalidFileName(String);

impl FileName {
    /// Checks a path such as `log/<derivation>`.
    pub fn parse(path: &str) -> Result<Self, InvalidFileName> {
        let plain = |name: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=!:".contains(&b);
            !name.is_empty()
                && name.len() <= 300
                && !name.starts_with('.')
                && name.bytes().all(allowed)
        };
        let parts: Vec<&str> = path.split('/').collect();
        let valid = match parts[..] {
            ["log" | "debuginfo", name] => plain(name),
            ["realisations", name] => plain(name) && name.ends_with(".doi"),
            ["build-trace-v2", drv, name] => plain(drv) && plain(name) && name.ends_with(".doi"),
            _ => false,
        };
        if valid { Ok(Self(path.to_owned())) } else { Err(InvalidFileName(path.to_owned())) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The derivation that a log is of.
    Derivation(StorePathHash),
    /// The path that a realisation names.
    Path(StorePathHash),
    /// The NAR that debug info lies in.
    Nar(Sha256),
}

impl About {
    /// What the file of that name is about, if that is known.
    pub(crate) fn of(name: &str, record: &FileRecord) -> Option<Self> {
        if let Some(derivation) = name.strip_prefix("log/") {
            return hash_part(derivation).map(Self::Derivation);
        }
        let path = <[u8; 20]>::try_from(&record.about[..]).map(|hash| Self::Path(hash.into()));
        let nar = || <[u8; 32]>::try_from(&record.about[..]).map(|hash| Self::Nar(hash.into()));
        path.or_else(|_| nar()).ok()
    }

    /// What the contents of a file say that it is about, as its record keeps it; nothing where they
    /// are not what Nix writes.
    fn read(name: &FileName, body: &[u8]) -> Vec<u8> {
        let folder = name.as_str().split('/').next().unwrap_or_default();
        let field = match folder {
            "realisations" | "build-trace-v2" => "outPath",
            "debuginfo" => "archive",
            _ => return Vec::new(),
        };
        let contents = serde_json::from_slice(body).unwrap_or(serde_json::Value::Null);
        let named = contents[field].as_str().unwrap_or_default();
        let base_name = named.rsplit('/').next().unwrap_or_default();
        let about = match folder {
            "debuginfo" => base_name.parse().ok().map(|nar: NarName| nar.hash.as_bytes().to_vec()),
            _ => hash_part(base_name).map(|hash| hash.as_bytes().to_vec()),
        };
        about.unwrap_or_default()
    }
}

/// A file as it was uploaded.
pub struct StoredFile {
    store: Arc<Store>,
    chunks: std::vec::IntoIter<ChunkRef>,
    size: u64,
    content_type: String,
    content_encoding: String,
    tag: Tag,
}

impl StoredFile {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// `Content-Type` as uploaded; empty for none.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// `Content-Encoding` as uploaded; empty for none.
    pub fn content_encoding(&self) -> &str {
        &self.content_encoding
    }

    /// The tag of it and of how it is to be read.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl crate::nar::NarBody for StoredFile {
    fn next_window(&mut self) -> Result<Option<bytes::Bytes>, NarError> {
        let Some(chunk) = self.chunks.next() else {
            return Ok(None);
        };
        let mut out = Vec::new();
        self.store.reader()?.append_chunk(&chunk, &mut out)?;
        Ok(Some(out.into()))
    }
}

impl Cache {
    /// Keeps a file. When this returns it is durable. Blocks.
    pub fn put_file(
        &self,
        name: &FileName,
        body: &[u8],
        content_type: &str,
        content_encoding: &str,
    ) -> Result<(), CacheError> {
        let size = body.len() as u64;
        let failed = |error: castore::UploadError| match error {
            castore::UploadError::Store(error) => error,
            error => StoreError::Io(std::io::Error::other(error)),
        };
        let mut upload = self.store.upload()?;
        upload.start_file(b"", false, size).map_err(failed)?;
        if size > 0 {
            upload.write(body).map_err(failed)?;
        }
        let uploaded = upload.finish().map_err(failed)?;
        let record = FileRecord {
            tree: uploaded.tree.as_bytes().to_vec(),
            size,
            content_type: content_type.to_owned(),
            content_encoding: content_encoding.to_owned(),
            uploaded: self.store.now(),
            about: About::read(name, body),
        };
        let Source { since, flight } = Source::of(&uploaded);
        self.store.commit_secured(&uploaded.tree, None, since, flight.as_deref(), || {
            let mut transaction = Transaction::default();
            let key = file_key(self.number, name.as_str());
            transaction.put(key, record.encode_to_vec(), Expected::Anything);
            transaction
        })?;
        Ok(())
    }

    /// The file of that name; `None` when there is none.
    pub fn file(&self, name: &FileName) -> Result<Option<StoredFile>, CacheError> {
        let Some(fact) = self.store.fact(&file_key(self.number, name.as_str()))? else {
            return Ok(None);
        };
        let record: FileRecord = decode(name.as_str(), &fact.value)?;
        let tree = self.store.tree(&digest(name.as_str(), &record.tree)?)?;
        let Node::File { digest: blob, size, .. } = tree.root() else {
            return Err(RecordError::new(name.as_str(), "it is not a file").into());
        };
        Ok(Some(StoredFile {
            chunks: self.store.chunks_of(&tree, blob, *size)?.into_iter(),
            store: self.store.clone(),
            size: record.size,
            content_type: record.content_type,
            content_encoding: record.content_encoding,
            // The record names the bytes by their digest, and has the rest of what is sent.
            tag: Tag::of(&fact.value),
        }))
    }
}
