//! The record that a binary cache keeps for each store path, `<hash>.narinfo`.
//!
//! One `Field: value` a line, every line with its newline:
//!
//! ```text
//! StorePath: /nix/store/5kp70f3qpzbr2mmb8b5lhb37dr3gxr6p-refs.txt
//! URL: nar/03rbjdv3jcbv98hxzip1h2wwya595p2l5mb16r8vjgcvsk56qhfb.nar
//! Compression: none
//! FileHash: sha256:03rbjdv3jcbv98hxzip1h2wwya595p2l5mb16r8vjgcvsk56qhfb
//! FileSize: 224
//! NarHash: sha256:03rbjdv3jcbv98hxzip1h2wwya595p2l5mb16r8vjgcvsk56qhfb
//! NarSize: 224
//! References: 08g3c9zd7qsw0216x1bdlk7qrykjny7s-other sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-text.txt
//! Deriver: l29apgfs3834h8sca9vbprndaxll5sp8-refs.txt.drv
//! Sig: test-1:8QJrCAbkoYpvzJt2j1nrEeqc1Ey9rfafjMQvcQ+mhhSa0n9wmcATUo6+P11IIMkJWEw6zUE+Dn5W3HYHYnfAAQ==
//! CA: text:sha256:06r6sw586z1qdxhzy06fw9szh4qalqrg6mzl3wjzjayy075hmbl7
//! ```
//!
//! `StorePath`, `URL`, `NarHash` and `NarSize` must be there; `Sig` may be
//! there many times. No references are written as `References: `, with the
//! space. Fields that Nix does not know it skips.
//!
//! What Nix reads but would not write is read, and noted in [`Flags`]. What
//! is said twice, or would be read differently by different versions of Nix,
//! is an error.
//!
//! Source: the Nix manual, "Binary Cache"; what Nix 2.8.0 and 2.34.8 write and
//! refuse.

mod flags;
mod parse;

pub use flags::Flags;
pub use parse::Error;

use crate::nixhash::Sha256;
use crate::signature::{Signature, SigningKey, VerifyingKey};
use crate::store_path::{ContentAddress, StoreDir, StorePath};

/// Largest narinfo read. Nearly all of a large one are its references: this
/// is room for some 15 000.
pub const MAX_NARINFO_SIZE: usize = 1024 * 1024;

/// What a narinfo says. Its strings are each part of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo<'a> {
    /// The path.
    pub store_path: StorePath,
    /// Where the NAR is, in most caches relative to the cache's root.
    pub url: &'a str,
    /// How the NAR is compressed. Nix takes `None` for bzip2.
    pub compression: Option<&'a str>,
    /// Hash of the compressed NAR.
    pub file_hash: Option<Sha256>,
    /// Bytes of the compressed NAR.
    pub file_size: Option<u64>,
    /// Hash of the NAR.
    pub nar_hash: Sha256,
    /// Bytes of the NAR; never 0.
    pub nar_size: u64,
    /// The paths it refers to, itself too if it does, as ordered in the text.
    pub references: Vec<StorePath>,
    /// The derivation it was built by.
    pub deriver: Option<StorePath>,
    /// The system it was built for. Nix no longer writes it.
    pub system: Option<&'a str>,
    /// Signatures of [the fingerprint](fingerprint).
    pub signatures: Vec<Signature>,
    /// The content address, if that is what its hash was made from.
    pub ca: Option<ContentAddress>,
    /// Fields that Nix does not know, in the order of the text.
    pub unknown: Vec<(&'a str, &'a str)>,
    /// What was odd about the text. Not written.
    pub flags: Flags,
}

impl NarInfo<'_> {
    /// The text, as Nix writes it, with the unknown fields at its end.
    /// References come out sorted.
    pub fn render(&self, store_dir: &StoreDir) -> String {
        let mut out = String::with_capacity(512 + 64 * self.references.len());
        self.write_to(store_dir, &mut out);
        out
    }

    /// Appends the text to `out`. See [`NarInfo::render`].
    pub fn write_to(&self, store_dir: &StoreDir, out: &mut String) {
        let mut field = |name: &str, value: &str| {
            out.extend([name, ": ", value, "\n"]);
        };
        field("StorePath", &self.store_path.to_absolute(store_dir));
        field("URL", self.url);
        if let Some(compression) = self.compression {
            field("Compression", compression);
        }
        if let Some(hash) = self.file_hash {
            field("FileHash", &hash.to_string());
        }
        if let Some(size) = self.file_size {
            field("FileSize", &size.to_string());
        }
        field("NarHash", &self.nar_hash.to_string());
        field("NarSize", &self.nar_size.to_string());
        let references: Vec<_> =
            sorted(&self.references).into_iter().map(StorePath::to_string).collect();
        field("References", &references.join(" "));
        if let Some(deriver) = &self.deriver {
            field("Deriver", &deriver.to_string());
        }
        if let Some(system) = self.system {
            field("System", system);
        }
        for signature in &self.signatures {
            field("Sig", &signature.to_string());
        }
        if let Some(ca) = &self.ca {
            field("CA", &ca.to_string());
        }
        for (name, value) in &self.unknown {
            field(name, value);
        }
    }

    /// What the signatures sign. See [`fingerprint`].
    pub fn fingerprint(&self, store_dir: &StoreDir) -> String {
        let NarInfo { store_path, nar_hash, nar_size, references, .. } = self;
        fingerprint(store_dir, store_path, nar_hash, *nar_size, references)
    }

    /// Whether one of the signatures is by `key`.
    pub fn is_signed_by(&self, store_dir: &StoreDir, key: &VerifyingKey) -> bool {
        let mut by_name = self.signatures.iter().filter(|s| s.name() == key.name()).peekable();
        if by_name.peek().is_none() {
            return false;
        }
        let fingerprint = self.fingerprint(store_dir);
        by_name.any(|signature| key.verify(&fingerprint, signature))
    }

    /// Adds a signature by `key`, unless it is there already.
    pub fn sign(&mut self, store_dir: &StoreDir, key: &SigningKey) {
        let signature = key.sign(&self.fingerprint(store_dir));
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }
}

/// What is signed of a path: `1;<path>;sha256:<nix32>;<size>;<references>`,
/// paths in full, references sorted and joined by commas. `references` may be
/// in any order.
pub fn fingerprint<'a>(
    store_dir: &StoreDir,
    path: &StorePath,
    nar_hash: &Sha256,
    nar_size: u64,
    references: impl IntoIterator<Item = &'a StorePath>,
) -> String {
    let references: Vec<_> =
        sorted(references).into_iter().map(|r| r.to_absolute(store_dir)).collect();
    let path = path.to_absolute(store_dir);
    format!("1;{path};{nar_hash};{nar_size};{}", references.join(","))
}

fn sorted<'a>(references: impl IntoIterator<Item = &'a StorePath>) -> Vec<&'a StorePath> {
    let mut references: Vec<_> = references.into_iter().collect();
    references.sort_unstable();
    references.dedup();
    references
}
