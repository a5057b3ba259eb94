//! A small file system in memory, for what happens on a full disk. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The file system. Taken away when dropped.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// One of that size (`3m`) at an empty folder.
    pub fn at(place: &Path, size: &str) -> Self {
        // Nobody else may write to a cache folder.
        let options = format!("size={size},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "granary-test"]).arg(place);
        assert!(mount.status().expect("mount runs").success());
        Self(place.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
