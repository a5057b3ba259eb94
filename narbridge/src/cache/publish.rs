//! Publishing a path: a narinfo is checked against the NAR that came before it.

use std::collections::HashSet;

use castore::{Expected, StoreError, Transaction};
use nix_compat::narinfo::{self, NarInfo};
use nix_compat::nixhash::{NixHash, Sha256};
use nix_compat::store_path::{
    ContentAddress, IngestionMethod, StorePath, StorePathHash, build_ca_path,
};
use prost::Message;

use super::nars::{Source, UploadedNar};
use super::{Cache, CacheError, NarName};
use crate::compression::Compression;
use crate::records::{PathRecord, broken_key, decode, nar_key, path_key};

/// Why a narinfo was not accepted. The message starts with the field that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It cannot be read.
    #[error(transparent)]
    Parse(#[from] narinfo::Error),
    /// A field says something that is not so.
    #[error("{field}: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Why not.
        why: String,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl From<StoreError> for PublishError {
    fn from(error: StoreError) -> Self {
        Self::Cache(error.into())
    }
}

/// Who publishes a path.
#[derive(Clone, Copy)]
pub(super) struct Uploader<'a> {
    /// Subject of the token; empty if unknown.
    pub subject: &'a str,
    /// Whether it may not read the cache.
    pub blind: bool,
}

pub(super) fn wrong(field: &'static str, why: impl Into<String>) -> PublishError {
    PublishError::Field { field, why: why.into() }
}

impl Cache {
    /// Publishes the path that `text`, uploaded as `<hash>.narinfo`, describes. When this returns
    /// it is durable and visible. `blind` is as in [`Cache::upload_nar`]. Blocks.
    pub fn publish(
        &self,
        hash: StorePathHash,
        text: &[u8],
        blind: Option<&str>,
    ) -> Result<(), PublishError> {
        let narinfo = NarInfo::parse(text, &self.store_dir)?;
        if narinfo.store_path.hash() != hash {
            let why = format!("{} is not the path of {hash}.narinfo", narinfo.store_path);
            return Err(wrong("StorePath", why));
        }
        let nar = self.check_nar(&narinfo, blind)?;
        self.check_content_address(&narinfo, nar.nar_hash)?;

        let uploader = Uploader { subject: blind.unwrap_or_default(), blind: blind.is_some() };
        self.record(&narinfo, &nar, uploader)?;
        Ok(())
    }

    /// Makes what `info` says of a path durable and visible. It has been held against the NAR.
    /// Returns the length of the NAR as it is served.
    pub(super) fn record(
        &self,
        info: &NarInfo<'_>,
        nar: &UploadedNar,
        uploader: Uploader<'_>,
    ) -> Result<u64, PublishError> {
        let lost =
            || Err(CacheError::from(StoreError::Io(std::io::ErrorKind::Other.into())).into());
        self.record_all(vec![(info, nar, uploader)]).pop().unwrap_or_else(lost)
    }

    /// The same for many paths with one write. Each happens or not by itself.
    pub(super) fn record_all(
        &self,
        paths: Vec<(&NarInfo<'_>, &UploadedNar, Uploader<'_>)>,
    ) -> Vec<Result<u64, PublishError>> {
        let mut outcomes: Vec<Option<Result<u64, PublishError>>> =
            paths.iter().map(|_| None).collect();
        let mut references: Vec<Option<Vec<Vec<u8>>>> = paths.iter().map(|_| None).collect();
        // The transactions of one write must not build on each other, so of two that are about the
        // same path the second waits.
        while outcomes.iter().any(Option::is_none) {
            let (mut transactions, mut at, mut hashes) = (Vec::new(), Vec::new(), HashSet::new());
            for (index, (info, nar, uploader)) in paths.iter().enumerate() {
                if outcomes[index].is_some() || !hashes.insert(info.store_path.hash()) {
                    continue;
                }
                let here = self.references_here(info);
                let prepared = here.and_then(|here| {
                    let first = references[index].get_or_insert_with(|| here.clone());
                    if first.iter().any(|reference| !here.contains(reference)) {
                        let why = "one of them was deleted or collected just now: push it again";
                        return Err(wrong("References", why));
                    }
                    self.transaction(info, nar, *uploader, &here)
                });
                match prepared {
                    Ok((transaction, file_size)) => {
                        transactions.push(transaction);
                        at.push((index, file_size));
                    }
                    Err(error) => outcomes[index] = Some(Err(error)),
                }
            }
            // What these refer to is in use, and nobody removes it between this and the commit.
            let deciding = self.decide_among_others();
            let relied_on = at.iter().flat_map(|(index, _)| others(paths[*index].0));
            let relied_on: Vec<_> = relied_on.map(StorePath::hash).collect();
            if let Err(error) = self.accesses.note_relied_on(self.number, &relied_on) {
                // It is noted here in any case.
                tracing::warn!(%error, "other servers do not know yet which paths are in use");
            }
            let done = self.store.commit_all(transactions);
            drop(deciding);
            for ((index, file_size), done) in at.into_iter().zip(done) {
                outcomes[index] = match done {
                    Ok(_) => {
                        self.broken.mended(&paths[index].1.tree);
                        Some(Ok(file_size))
                    }
                    // Somebody else wrote to the same keys: it is read again.
                    Err(castore::CommitError::Conflict) => continue,
                    Err(castore::CommitError::Outdated) => match self.store.refresh_epoch() {
                        Ok(()) => continue,
                        Err(error) => Some(Err(CacheError::from(error).into())),
                    },
                    Err(error) => Some(Err(CacheError::from(StoreError::from(error)).into())),
                };
                self.forget_narinfo(paths[index].0.store_path.hash());
            }
        }
        outcomes.into_iter().flatten().collect()
    }

    /// The keys of the paths that this one refers to, as far as the cache has them.
    fn references_here(&self, info: &NarInfo<'_>) -> Result<Vec<Vec<u8>>, PublishError> {
        let others = others(info);
        let keys: Vec<_> = others.map(|other| path_key(self.number, other.hash())).collect();
        let here = self.store.facts_exist(&keys)?;
        Ok(keys.into_iter().zip(here).filter_map(|(key, here)| here.then_some(key)).collect())
    }

    /// The transaction that makes a path visible, for as long as there are those `references`; and the
    /// length of its NAR as it is served.
    fn transaction(
        &self,
        info: &NarInfo<'_>,
        nar: &UploadedNar,
        uploader: Uploader<'_>,
        references: &[Vec<u8>],
    ) -> Result<(Transaction, u64), PublishError> {
        check_signatures(info)?;
        let hash = info.store_path.hash();
        let Source { since, flight } = &nar.source;
        let epoch = self.store.secure(&nar.tree, Some(self.holder()), *since, flight.as_deref());
        let mut record = PathRecord {
            name: info.store_path.name().to_owned(),
            root: nar.root.clone(),
            tree: nar.tree.as_bytes().to_vec(),
            nar_hash: nar.nar_hash.as_bytes().to_vec(),
            nar_size: nar.nar_size,
            references: base_names(&info.references),
            deriver: info.deriver.as_ref().map(StorePath::to_string).unwrap_or_default(),
            signatures: info.signatures.iter().map(|s| s.to_string()).collect(),
            ca: info.ca.as_ref().map(|ca| ca.to_string()).unwrap_or_default(),
            file_size: self.zstd_len(nar)?,
            uploaded: self.store.now(),
            uploader: uploader.subject.to_owned(),
            blind: uploader.blind,
        };
        let by_nar_hash =
            UploadedNar { compression: Compression::None, file_size: nar.nar_size, ..nar.clone() };
        let key = path_key(self.number, hash);
        let before = self.store.fact(&key)?;
        let expected = Expected::as_read(before.as_ref());
        if let Some(fact) = before {
            let before: PathRecord =
                decode(&format!("path {hash}"), &fact.value).map_err(CacheError::from)?;
            if before.nar_hash == record.nar_hash {
                keep_signatures(&mut record.signatures, before.signatures);
            }
        }
        let mut transaction = Transaction::default();
        transaction.secured(epoch?);
        // What it refers to, as far as it is here, must not be collected at this very moment.
        references.iter().for_each(|key| transaction.require(key.clone()));
        transaction.put(key, record.encode_to_vec(), expected);
        transaction.put(
            nar_key(self.number, nar.nar_hash),
            by_nar_hash.to_record(self.store.now(), true).encode_to_vec(),
            Expected::Anything,
        );
        if self.broken.may_have(&nar.tree) {
            transaction.derive(&broken_key(&nar.tree), None);
        }
        Ok((transaction, record.file_size))
    }

    /// Finds the NAR that the narinfo is about, and holds each of its claims against it.
    fn check_nar(
        &self,
        narinfo: &NarInfo<'_>,
        blind: Option<&str>,
    ) -> Result<UploadedNar, PublishError> {
        let file = narinfo.url.strip_prefix("nar/");
        let file = file.ok_or_else(|| wrong("URL", "it does not start with nar/"))?;
        let name: NarName = file.parse().map_err(|error| wrong("URL", format!("{error}")))?;
        let known = match blind {
            Some(subject) => self.has_sent_nar(name.hash, subject)?,
            None => true,
        };
        let nar = if known { self.uploaded_nar(name.hash)? } else { None };
        // One that is not all there any more has to come again.
        let nar = nar.filter(|nar| !self.broken.has(&nar.tree));
        let nar = nar.ok_or_else(|| {
            wrong("URL", format!("{} has not been uploaded: upload the NAR first", narinfo.url))
        })?;
        let compression = Compression::from_narinfo(narinfo.compression);
        let compression = compression.map_err(|error| wrong("Compression", error.to_string()))?;
        // By its NAR hash a NAR is also served as zstd; narinfos with that URL come back when
        // somebody adds a signature.
        let served = name.hash == nar.nar_hash && name.compression == Some(Compression::Zstd);
        let expected = if served { Compression::Zstd } else { nar.compression };
        if compression != expected {
            let why = format!("{compression} is claimed, and {expected} was uploaded");
            return Err(wrong("Compression", why));
        }
        if narinfo.nar_hash != nar.nar_hash {
            let why = format!("{} is claimed, and {} came", narinfo.nar_hash, nar.nar_hash);
            return Err(wrong("NarHash", why));
        }
        if narinfo.nar_size != nar.nar_size {
            let why = format!("{} is claimed, and {} came", narinfo.nar_size, nar.nar_size);
            return Err(wrong("NarSize", why));
        }
        if let Some(hash) = narinfo.file_hash.filter(|hash| *hash != name.hash && !served) {
            return Err(wrong("FileHash", format!("{hash} is not the one in the URL")));
        }
        if let Some(size) = narinfo.file_size.filter(|size| *size != nar.file_size && !served) {
            let why = format!("{size} is claimed, and {} came", nar.file_size);
            return Err(wrong("FileSize", why));
        }
        Ok(nar)
    }

    /// A content address that is claimed must lead to the path that is claimed.
    pub(super) fn check_content_address(
        &self,
        narinfo: &NarInfo<'_>,
        nar_hash: Sha256,
    ) -> Result<(), PublishError> {
        let Some(ca) = &narinfo.ca else { return Ok(()) };
        let path = &narinfo.store_path;
        let refers_to_itself = narinfo.references.contains(path);
        let others = narinfo.references.iter().filter(|reference| *reference != path);
        let built = build_ca_path(path.name(), ca, others, refers_to_itself, &self.store_dir)
            .map_err(|error| wrong("CA", error.to_string()))?;
        if built != *path {
            return Err(wrong("CA", format!("{ca} makes {built}, not {path}")));
        }
        if let ContentAddress::Fixed {
            method: IngestionMethod::Recursive,
            hash: NixHash::Sha256(hash),
        } = ca
            && !refers_to_itself
            && hash != nar_hash.as_bytes()
        {
            return Err(wrong("CA", format!("{ca} is not the hash of the NAR that came")));
        }
        Ok(())
    }

    pub(super) fn zstd_len(&self, nar: &UploadedNar) -> Result<u64, PublishError> {
        let tree = self.store.tree(&nar.tree)?;
        let plan = self.zstd_plan(&nar.tree, &tree).map_err(CacheError::from)?;
        Ok(plan.total_len())
    }
}

/// What a path refers to beside itself.
fn others<'a>(info: &'a NarInfo<'_>) -> impl Iterator<Item = &'a StorePath> {
    info.references.iter().filter(|other| **other != info.store_path)
}

fn base_names(references: &[StorePath]) -> Vec<String> {
    let mut names: Vec<String> = references.iter().map(StorePath::to_string).collect();
    names.sort();
    names.dedup();
    names
}

/// Signatures of a path. Nobody verifies them here, and everybody is sent them.
const MAX_SIGNATURES: usize = 64;

pub(super) fn check_signatures(info: &NarInfo<'_>) -> Result<(), PublishError> {
    if info.signatures.len() <= MAX_SIGNATURES {
        return Ok(());
    }
    let why = format!("{} are too many: {MAX_SIGNATURES} are kept", info.signatures.len());
    Err(wrong("Sig", why))
}

/// Signatures that came earlier stay.
fn keep_signatures(signatures: &mut Vec<String>, before: Vec<String>) {
    for signature in before {
        if signatures.len() < MAX_SIGNATURES && !signatures.contains(&signature) {
            signatures.push(signature);
        }
    }
}
