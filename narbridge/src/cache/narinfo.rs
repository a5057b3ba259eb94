//! Narinfos: rendered from path infos, signed when first read.

use bytes::Bytes;
use castore::StoreError;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::signature::Signature;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::keys::Signers;
use super::rendered::Rendered;
use super::{Cache, CacheError, nar_url};
use crate::compression::Compression;
use crate::nar;
use crate::records::{PathRecord, RecordError, digest, sha256, signature_key};
use crate::storehouse::now;

impl Cache {
    /// The narinfo of a path, as it is sent; `None` when the cache does not have it.
    pub fn narinfo(&self, hash: StorePathHash) -> Result<Option<Bytes>, CacheError> {
        self.narinfos.get_or_render(hash, self.since, || self.render(hash))
    }

    /// The narinfo of a path if that can be told from memory; else ask [`Cache::narinfo`].
    pub fn known_narinfo(&self, hash: StorePathHash) -> Option<Option<Bytes>> {
        self.narinfos.get(hash, self.since)
    }

    /// What is known of a path may have changed.
    pub(super) fn forget_narinfo(&self, hash: StorePathHash) {
        self.narinfos.forget(hash);
    }

    fn render(&self, hash: StorePathHash) -> Result<Rendered, CacheError> {
        let Some((sequence, record)) = self.path_record(hash)? else {
            return Ok(Rendered { narinfo: None, settings: self.since, until: None });
        };
        let url_hash = sha256(&record.name, &record.nar_hash)?;
        let url = nar_url(url_hash);
        let mut narinfo = to_narinfo(hash, &record, &url)?;
        let signers = Signers::at(now(), &self.keys);
        self.sign(hash, sequence, &signers, &mut narinfo)?;
        let text = narinfo.render(&self.store_dir);
        let narinfo = Some(Bytes::from(text));
        Ok(Rendered { narinfo, settings: self.since, until: signers.until })
    }

    /// Adds the cache's signatures; makes them at the first read and remembers them.
    fn sign(
        &self,
        hash: StorePathHash,
        sequence: u64,
        signers: &Signers<'_>,
        narinfo: &mut NarInfo<'_>,
    ) -> Result<(), CacheError> {
        // A record that was replaced, or other keys, make what is remembered worthless.
        let heading = format!("{sequence} {}", signers.mark(&self.store_dir));
        let key = signature_key(self.number, hash);
        let remembered =
            self.store.derived(&key)?.and_then(|known| read_remembered(known, &heading));
        let signatures = match remembered {
            Some(signatures) => signatures,
            None => {
                let fingerprint = narinfo.fingerprint(&self.store_dir);
                let signatures: Vec<Signature> =
                    signers.keys().map(|key| key.sign(&fingerprint)).collect();
                let lines = signatures.iter().map(|signature| format!("\n{signature}"));
                let text = heading + &lines.collect::<String>();
                self.store.remember(&key, text.as_bytes())?;
                signatures
            }
        };
        for signature in signatures {
            // An uploader may have sent back what this cache signed before.
            if !narinfo.signatures.contains(&signature) {
                narinfo.signatures.push(signature);
            }
        }
        Ok(())
    }

    /// The listing of a path's NAR, as JSON; `None` when the cache does not have the path.
    pub fn listing(&self, hash: StorePathHash) -> Result<Option<String>, CacheError> {
        let Some((_, record)) = self.path_record(hash)? else {
            return Ok(None);
        };
        let tree = self.store.tree(&digest(&record.name, &record.tree)?)?;
        let listing = nar::listing(&tree)?;
        let json = serde_json::to_string(&listing);
        Ok(Some(json.map_err(|error| StoreError::Io(error.into()))?))
    }
}

/// The remembered signatures, if they were made for what the heading says.
fn read_remembered(known: Vec<u8>, heading: &str) -> Option<Vec<Signature>> {
    let text = String::from_utf8(known).ok()?;
    let mut lines = text.lines();
    if lines.next()? != heading {
        return None;
    }
    lines.map(|line| line.parse().ok()).collect()
}

fn to_narinfo<'a>(
    hash: StorePathHash,
    record: &'a PathRecord,
    url: &'a str,
) -> Result<NarInfo<'a>, RecordError> {
    let what = &record.name;
    let store_path = StorePath::new(hash, &record.name);
    let references = record.references.iter().map(|reference| reference.parse());
    let optional = |text: &'a str| Some(text).filter(|text| !text.is_empty());
    let wrong = |error: &dyn std::fmt::Display| RecordError::new(what, error);
    Ok(NarInfo {
        store_path: store_path.map_err(|error| wrong(&error))?,
        url,
        compression: Some(Compression::Zstd.name()),
        file_hash: None,
        file_size: Some(record.file_size),
        nar_hash: sha256(what, &record.nar_hash)?,
        nar_size: record.nar_size,
        references: references.collect::<Result<_, _>>().map_err(|error| wrong(&error))?,
        deriver: optional(&record.deriver)
            .map(str::parse)
            .transpose()
            .map_err(|error| wrong(&error))?,
        system: None,
        signatures: record
            .signatures
            .iter()
            .map(|signature| signature.parse())
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(&error))?,
        ca: optional(&record.ca).map(str::parse).transpose().map_err(|error| wrong(&error))?,
        unknown: Vec::new(),
        flags: Flags::default(),
    })
}
