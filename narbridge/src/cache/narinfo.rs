//! Narinfos: rendered from path infos, signed when first read.
//!
//! To what Nix reads they add the digest of the tree and signatures that cover it
//! ([`granary_api::sync`]). These are of the cache's own making, always: of what uploaders write
//! into fields that Nix does not know, nothing is kept.

use std::time::Instant;

use granary_api::sync::{SIGNATURE_FIELD, TREE_FIELD, root_fingerprint};
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::signature::Signature;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::keys::Signers;
use super::rendered::{Basis, Rendered, SentNarinfo};
use super::{Cache, CacheError, nar_url};
use crate::compression::Compression;
use crate::records::{PathRecord, RecordError, digest, sha256, signature_key};

impl Cache {
    /// The narinfo of a path, as it is sent; `None` when the cache does not have it.
    pub fn narinfo(&self, hash: StorePathHash) -> Result<Option<SentNarinfo>, CacheError> {
        let sent = self.narinfos.get_or_render(hash, self.basis(), || self.render(hash))?;
        if sent.is_some() {
            self.accesses.note(self.number, hash);
        }
        Ok(sent)
    }

    /// The narinfo of a path if that can be told from memory; else ask [`Cache::narinfo`].
    pub fn known_narinfo(&self, hash: StorePathHash) -> Option<Option<SentNarinfo>> {
        let known = self.narinfos.get(hash, self.basis())?;
        if known.is_some() {
            self.accesses.note(self.number, hash);
        }
        Some(known)
    }

    /// What is known of a path may have changed.
    pub(super) fn forget_narinfo(&self, hash: StorePathHash) {
        self.narinfos.forget(hash);
    }

    fn basis(&self) -> Basis {
        Basis { settings: self.since, broken: self.broken.changes() }
    }

    fn render(&self, hash: StorePathHash) -> Result<Rendered, CacheError> {
        let (rendered, basis) = (Instant::now(), self.basis());
        let absent = Rendered { narinfo: None, basis, until: None, rendered };
        let Some((sequence, record)) = self.path_record(hash)? else { return Ok(absent) };
        let tree = digest(&record.name, &record.tree)?;
        if self.broken.has(&tree) {
            return Ok(absent);
        }
        let tree = tree.to_string();
        let url_hash = sha256(&record.name, &record.nar_hash)?;
        let url = nar_url(url_hash);
        let mut narinfo = to_narinfo(hash, &record, &url)?;
        let signers = Signers::at(self.store.now(), &self.keys);
        let signatures = self.signatures(hash, sequence, &signers, &narinfo, &tree)?;
        for signature in signatures.nar {
            // An uploader may have sent back what this cache signed before.
            if !narinfo.signatures.contains(&signature) {
                narinfo.signatures.push(signature);
            }
        }
        let mut text = narinfo.render(&self.store_dir);
        text.extend([TREE_FIELD, ": ", &tree, "\n"]);
        for signature in signatures.root {
            text.extend([SIGNATURE_FIELD, ": ", &signature.to_string(), "\n"]);
        }
        let narinfo = Some(SentNarinfo::new(text));
        Ok(Rendered { narinfo, basis, until: signers.until, rendered })
    }

    /// The cache's signatures, made at the first read and remembered.
    fn signatures(
        &self,
        hash: StorePathHash,
        sequence: u64,
        signers: &Signers<'_>,
        narinfo: &NarInfo<'_>,
        tree: &str,
    ) -> Result<Signatures, CacheError> {
        // A record that was replaced, or other keys, make what is remembered worthless.
        let heading = format!("{REMEMBERED} {sequence} {}", signers.mark(&self.store_dir));
        let key = signature_key(self.number, hash);
        let remembered = self.store.derived(&key)?;
        if let Some(signatures) = remembered.and_then(|known| Signatures::read(known, &heading)) {
            return Ok(signatures);
        }
        let fingerprint = narinfo.fingerprint(&self.store_dir);
        let root = root_fingerprint(&fingerprint, tree);
        let signatures = Signatures {
            nar: signers.keys().map(|key| key.sign(&fingerprint)).collect(),
            root: signers.keys().map(|key| key.sign(&root)).collect(),
        };
        self.store.remember(&key, signatures.write(heading).as_bytes())?;
        Ok(signatures)
    }
}

/// What a cache signs of a path, one of each for each of its keys.
struct Signatures {
    /// Over what Nix signs.
    nar: Vec<Signature>,
    /// Over [`root_fingerprint`].
    root: Vec<Signature>,
}

/// The form in which signatures are remembered: a heading, and a line for each.
const REMEMBERED: u8 = 2;

impl Signatures {
    /// The remembered ones, if they were made for what the heading says.
    fn read(known: Vec<u8>, heading: &str) -> Option<Self> {
        let text = String::from_utf8(known).ok()?;
        let mut lines = text.lines();
        if lines.next()? != heading {
            return None;
        }
        let mut nar: Vec<Signature> = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        let root = nar.split_off(nar.len() / 2);
        (nar.len() == root.len()).then_some(Self { nar, root })
    }

    fn write(&self, heading: String) -> String {
        let lines = self.nar.iter().chain(&self.root);
        heading + &lines.map(|signature| format!("\n{signature}")).collect::<String>()
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
