//! Narinfos: rendered from path infos, signed when first read.

use bytes::Bytes;
use castore::StoreError;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::store_path::{StorePath, StorePathHash};

use super::{Cache, CacheError, nar_url};
use crate::compression::Compression;
use crate::nar;
use crate::records::{PathRecord, RecordError, digest, sha256, signature_key};

impl Cache {
    /// The narinfo of a path, as it is sent; `None` when the cache does not have it.
    pub fn narinfo(&self, hash: StorePathHash) -> Result<Option<Bytes>, CacheError> {
        if let Some(narinfo) = self.narinfos.get(&hash) {
            return Ok(narinfo);
        }
        // The guard keeps others from reading at the same time, and an entry from being put in
        // that a publication has made obsolete meanwhile.
        match self.narinfos.get_value_or_guard(&hash, None) {
            quick_cache::sync::GuardResult::Value(narinfo) => Ok(narinfo),
            quick_cache::sync::GuardResult::Guard(guard) => {
                let narinfo = self.render(hash)?.map(Bytes::from);
                let _ = guard.insert(narinfo.clone());
                Ok(narinfo)
            }
            quick_cache::sync::GuardResult::Timeout => Ok(self.render(hash)?.map(Bytes::from)),
        }
    }

    /// The narinfo of a path if that can be told from memory; else ask [`Cache::narinfo`].
    pub fn known_narinfo(&self, hash: StorePathHash) -> Option<Option<Bytes>> {
        self.narinfos.get(&hash)
    }

    /// What is known of a path may have changed.
    pub(super) fn forget_narinfo(&self, hash: StorePathHash) {
        self.narinfos.remove(&hash);
    }

    fn render(&self, hash: StorePathHash) -> Result<Option<String>, CacheError> {
        let Some((sequence, record)) = self.path_record(hash)? else {
            return Ok(None);
        };
        let url_hash = sha256(&record.name, &record.nar_hash)?;
        let url = nar_url(url_hash);
        let mut narinfo = to_narinfo(hash, &record, &url)?;
        self.sign(hash, sequence, &mut narinfo)?;
        Ok(Some(narinfo.render(&self.store_dir)))
    }

    /// Adds the cache's signatures; makes them at the first read and remembers them.
    fn sign(
        &self,
        hash: StorePathHash,
        sequence: u64,
        narinfo: &mut NarInfo<'_>,
    ) -> Result<(), CacheError> {
        // A record that was replaced, or other keys, make what is remembered worthless.
        let names: Vec<&str> = self.keys.iter().map(|key| key.name()).collect();
        let heading = format!("{sequence} {}", names.join(" "));
        let key = signature_key(self.number, hash);
        if let Some(known) = self.store.derived(&key)?
            && let Ok(text) = String::from_utf8(known)
            && let Some((first, signatures)) = text.split_once('\n')
            && first == heading
        {
            let signatures = signatures.lines().filter_map(|line| line.parse().ok());
            narinfo.signatures.extend(signatures);
            return Ok(());
        }
        let fingerprint = narinfo.fingerprint(&self.store_dir);
        let mut remembered = heading;
        for key in &self.keys {
            let signature = key.sign(&fingerprint);
            remembered.push('\n');
            remembered.push_str(&signature.to_string());
            // An uploader may have sent back what this cache signed before.
            if !narinfo.signatures.contains(&signature) {
                narinfo.signatures.push(signature);
            }
        }
        Ok(self.store.remember(&key, remembered.as_bytes())?)
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
