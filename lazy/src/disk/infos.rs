//! Narinfos on disk, so that a cache that was mounted before can be mounted without its source.
//!
//! A file holds the narinfo as it came. It is checked again when it is read, as if it had just come;
//! the one thing that cannot be checked again without reading all of a path is that its NAR was
//! verified whole. A line at the end says it, which is taken from our own disk and from nobody else:
//!
//! ```text
//! verified <digest of the tree, hex>
//! ```

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use castore::Digest;
use nix_compat::store_path::StorePathHash;

use super::DiskCache;

const VERIFIED: &str = "verified ";

/// Narinfos from one source.
pub struct Infos {
    dir: PathBuf,
}

/// A narinfo that was kept.
pub(crate) struct KeptInfo {
    pub text: String,
    /// The tree that its NAR was found to make.
    pub verified: Option<Digest>,
}

impl DiskCache {
    /// The narinfos of the source of that name.
    pub fn infos(&self, source: &str) -> Infos {
        let name = Digest::of(source.as_bytes()).to_string();
        Infos { dir: self.dir.join("infos").join(&name[..32]) }
    }

    /// Keeps a narinfo; when that fails it is in the log.
    pub(crate) fn put_info(
        &self,
        infos: &Infos,
        hash: StorePathHash,
        text: &str,
        verified: Option<Digest>,
    ) {
        if self.is_failing() {
            return;
        }
        let line = verified.map(|tree| format!("{VERIFIED}{tree}\n")).unwrap_or_default();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let temporary = infos.dir.join(format!(".{}-{number}", std::process::id()));
        let written = (|| -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&infos.dir)?;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.write_all(line.as_bytes())?;
            fs::rename(&temporary, infos.dir.join(hash.to_string()))
        })();
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            self.failed(&error);
        }
    }
}

impl Infos {
    /// What is kept of a path.
    pub(crate) fn get(&self, hash: StorePathHash) -> Option<KeptInfo> {
        let mut text = fs::read_to_string(self.dir.join(hash.to_string())).ok()?;
        let mut verified = None;
        let last = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
        if let Some(digest) = text[last..].trim_end().strip_prefix(VERIFIED) {
            verified = Some(digest.parse().ok()?);
            text.truncate(last);
        }
        Some(KeptInfo { text, verified })
    }

    /// The paths of which something is kept.
    pub(crate) fn all(&self) -> Vec<StorePathHash> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}
