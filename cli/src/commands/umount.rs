//! `granary umount`

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Context, Failure};

/// Options of `granary umount`.
#[derive(Args)]
pub struct Umount {
    /// Where the mount is
    mountpoint: PathBuf,
    /// Take it away at once; programs that use it keep it until they end
    #[arg(long)]
    lazy: bool,
}

impl Umount {
    /// Unmounts, also what a killed mount has left behind.
    pub fn run(self) -> Result<(), Failure> {
        let unmounted = granary_fuse::unmount(&self.mountpoint, self.lazy);
        unmounted.context(|| "not unmounted".to_owned())
    }
}
