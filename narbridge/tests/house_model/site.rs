//! Where the storehouse lies, and what is left of it when its process is killed.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use castore::{ManualClock, Options};
use narbridge::{Storehouse, StorehouseError};
use tempfile::TempDir;

use crate::model::folder::{copy_still, in_memory};
use crate::model::op::Dice;

pub struct Site {
    dir: TempDir,
    /// How many folders were made.
    made: usize,
    folder: PathBuf,
    pack_target: u64,
    pub clock: ManualClock,
}

impl Site {
    pub fn new(seed: u64) -> Self {
        // Small packs, so that there are some of which a little is needed.
        let pack_target = 60_000 + Dice(seed).below(240_000);
        let clock = ManualClock::at(1_700_000_000);
        let dir = in_memory();
        let folder = dir.path().join("0");
        Self { dir, made: 0, folder, pack_target, clock }
    }

    pub fn open(&self) -> Result<Arc<Storehouse>, StorehouseError> {
        let mut progress = |_| {};
        let clock = self.clock.clone().into();
        let (pack_target, threads) = (self.pack_target, 1);
        let options = Options { pack_target, threads, clock, ..Options::new(&mut progress) };
        Ok(Arc::new(Storehouse::open(&self.folder, options)?))
    }

    /// The process is killed: from now on the folder is a copy of what it was at this moment. Returns the
    /// one in which the process goes on, for nobody.
    pub fn kill(&mut self) -> PathBuf {
        self.made += 1;
        let copy = self.dir.path().join(self.made.to_string());
        copy_still(&self.folder, &copy);
        std::mem::replace(&mut self.folder, copy)
    }

    pub fn lose_index(&self) {
        let _ = fs::remove_dir_all(self.folder.join("index"));
    }
}
