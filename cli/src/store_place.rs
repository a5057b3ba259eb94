//! Where a store is, for commands that open one as a server does.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use castore::bytes::{LocalPacks, PackBackend};
use castore::fsck::measure;
use clap::Args;
use narbridge::Storehouse;

use crate::commands::serve;
use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};

/// Where a store is.
#[derive(Args)]
pub struct StorePlace {
    /// Folder that holds the store; no server may be using it [default: $XDG_STATE_HOME/granary]
    #[arg(long, value_name = "DIR", env = "GRANARY_DATA")]
    data: Option<PathBuf>,
}

/// What remaking an index came to.
pub struct RebuildReport {
    /// Packs it was made from.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// The packs of a store, without what is made from them.
pub struct PlacePacks {
    /// The packs.
    pub backend: Arc<dyn PackBackend>,
    /// Held while they are in use.
    _lock: Option<File>,
}

impl StorePlace {
    fn dir(&self) -> Result<PathBuf, Failure> {
        let dir = match &self.data {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        if !dir.join("packs").is_dir() {
            return Err(Failure::new(format!("there is no store in {}", dir.display())));
        }
        Ok(dir)
    }

    /// What a person calls the place.
    pub fn describe(&self) -> Result<String, Failure> {
        Ok(self.dir()?.display().to_string())
    }

    /// Opens the storehouse there; makes none.
    pub fn open(&self) -> Result<Storehouse, Failure> {
        serve::open(&self.dir()?)
    }

    /// Throws the index away, and opens the storehouse with one made from the packs.
    pub fn rebuild(&self) -> Result<(Storehouse, RebuildReport), Failure> {
        let (dir, packs) = (self.dir()?, self.packs()?);
        let measured = measure(&*packs.backend);
        let measured =
            measured.context(|| format!("cannot read the packs in {}", dir.display()))?;
        let index = dir.join("index");
        match fs::remove_dir_all(&index) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.context(|| format!("cannot remove {}", index.display()))?,
        }
        drop(packs);
        let started = Instant::now();
        let house = serve::open(&dir)?;
        let (packs, bytes) = (measured.len() as u64, measured.iter().map(|(_, len)| len).sum());
        Ok((house, RebuildReport { packs, bytes, took: started.elapsed() }))
    }

    /// The packs alone, for a store that does not open.
    pub fn packs(&self) -> Result<PlacePacks, Failure> {
        let dir = self.dir()?;
        let context = || format!("cannot open the packs in {}", dir.display());
        let lock = castore::store::lock(&dir).context(context)?;
        let backend = Arc::new(LocalPacks::open(&dir.join("packs")).context(context)?);
        Ok(PlacePacks { backend, _lock: Some(lock) })
    }
}
