//! Narinfos on disk, so that a cache that was mounted before can be mounted without its source.
//!
//! A file holds one line of ours, and the narinfo as it came. The narinfo is checked again when it is
//! read, as if it had just come; the one thing that cannot be checked again without reading all of a
//! path is that its NAR was verified whole. Our line says it. It is always there and comes first, so
//! that nothing in a narinfo can pass for it:
//!
//! ```text
//! verified <digest of the tree, hex>
//! believed <digest of the tree, hex>      by a mount that checked no signatures
//! unverified
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use castore::Digest;
use nix_compat::store_path::StorePathHash;

use super::DiskCache;

const VERIFIED: &str = "verified ";
const BELIEVED: &str = "believed ";
const UNVERIFIED: &str = "unverified";
/// The file that says what the source is; no path has that name.
const ABOUT: &str = "about";

/// Narinfos from one source.
pub struct Infos {
    dir: PathBuf,
}

/// A narinfo that was kept.
pub(crate) struct KeptInfo {
    pub text: String,
    /// The tree that its NAR was found to make.
    pub verified: Option<Verified>,
}

/// A tree of which the NAR was read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// A signature or the path's name vouched for it.
    Proven(Digest),
    /// The source's word was taken.
    Believed(Digest),
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
        verified: Option<Verified>,
    ) {
        let line = match verified {
            Some(Verified::Proven(tree)) => format!("{VERIFIED}{tree}"),
            Some(Verified::Believed(tree)) => format!("{BELIEVED}{tree}"),
            None => UNVERIFIED.to_owned(),
        };
        self.write(infos, &hash.to_string(), &format!("{line}\n{text}"));
    }

    /// Keeps what a source says of itself, so that it can be mounted while it is away.
    pub fn put_about(&self, source: &str, text: &str) {
        self.write(&self.infos(source), ABOUT, text);
    }

    /// What a source has said of itself when it was last there.
    pub fn about(&self, source: &str) -> Option<String> {
        fs::read_to_string(self.infos(source).dir.join(ABOUT)).ok()
    }

    fn write(&self, infos: &Infos, name: &str, text: &str) {
        if self.is_failing() {
            return;
        }
        let temporary = infos.dir.join(self.temporary_name());
        let written = (|| -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&infos.dir)?;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&temporary, infos.dir.join(name))
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
        let mut file = fs::File::open(self.dir.join(hash.to_string())).ok()?;
        let mut kept = String::new();
        file.read_to_string(&mut kept).ok()?;
        // Marks it as used.
        let _ = file.set_modified(SystemTime::now());
        let (line, text) = kept.split_once('\n')?;
        let verified = if let Some(digest) = line.strip_prefix(VERIFIED) {
            Some(Verified::Proven(digest.parse().ok()?))
        } else if let Some(digest) = line.strip_prefix(BELIEVED) {
            Some(Verified::Believed(digest.parse().ok()?))
        } else if line == UNVERIFIED {
            None
        } else {
            return None;
        };
        Some(KeptInfo { text: text.to_owned(), verified })
    }

    /// The paths of which something is kept.
    pub(crate) fn all(&self) -> Vec<StorePathHash> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_narinfo_can_say_that_its_nar_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskCache::open(dir.path(), 1 << 20).unwrap();
        let (infos, hash) = (disk.infos("a cache"), StorePathHash::from([7; 20]));
        let tree = Digest::of(b"somebody else's");
        for forged in [
            format!("StorePath: x\n{VERIFIED}{tree}\n"),
            format!("{VERIFIED}{tree}\nStorePath: x\n"),
            format!("\n{VERIFIED}{tree}\n"),
        ] {
            disk.put_info(&infos, hash, &forged, None);
            let kept = infos.get(hash).unwrap();
            assert_eq!((kept.text, kept.verified), (forged, None));
        }
        disk.put_info(&infos, hash, "StorePath: x\n", Some(Verified::Proven(tree)));
        let kept = infos.get(hash).unwrap();
        assert_eq!((&*kept.text, kept.verified), ("StorePath: x\n", Some(Verified::Proven(tree))));
        assert_eq!(infos.all(), [hash]);
    }

    #[test]
    fn what_is_not_a_kept_narinfo_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskCache::open(dir.path(), 1 << 20).unwrap();
        let (infos, hash) = (disk.infos("a cache"), StorePathHash::from([7; 20]));
        disk.put_info(&infos, hash, "StorePath: x\n", None);
        let place = infos.dir.join(hash.to_string());
        for torn in ["", "unver", "verified 12\nStorePath: x\n", "StorePath: x\n"] {
            fs::write(&place, torn).unwrap();
            assert!(infos.get(hash).is_none(), "{torn:?}");
        }
    }
}
