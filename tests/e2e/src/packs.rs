//! The packs of a data directory, read by a zstd that knows nothing of Granary.

use std::path::Path;
use std::process::Command;

/// What [`decode_all`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// Packs that are complete.
    pub sealed: usize,
    /// Packs that still grow.
    pub open: usize,
    /// Bytes that they all decode to.
    pub plain: u64,
}

/// Runs `zstd -dc` over every pack, sealed or not; panics where it complains.
pub fn decode_all(data: &Path) -> Found {
    let mut found = Found::default();
    for entry in std::fs::read_dir(data.join("packs")).expect("the data directory has packs") {
        let pack = entry.expect("an entry").path();
        match pack.extension().and_then(|extension| extension.to_str()) {
            Some("pack") => found.sealed += 1,
            Some("open") => found.open += 1,
            _ => panic!("{} is no pack", pack.display()),
        }
        let mut zstd = Command::new("zstd")
            .arg("-dc")
            .arg(&pack)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("zstd runs");
        let mut stdout = zstd.stdout.take().expect("piped");
        found.plain += std::io::copy(&mut stdout, &mut std::io::sink()).expect("zstd writes");
        let status = zstd.wait().expect("zstd ends");
        assert!(status.success(), "zstd -dc {}: {status}", pack.display());
    }
    found
}
