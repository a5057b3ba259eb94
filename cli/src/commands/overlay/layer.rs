//! Where what is written goes, a folder: the upper layer of the file system in `upper/` with
//! overlayfs's own in `work/`, Nix's database and roots in `state/`, build logs in `log/`. They
//! belong together: the database says what is valid in the upper layer.
//!
//! `layer.json` says what the layer lies on; `lock` is locked while it is mounted.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::LayerArgs;
use crate::failure::{Context, Failure};
use crate::output::warn;

/// What a layer lies on.
#[derive(Serialize, Deserialize)]
struct Below {
    cache: String,
    store_dir: String,
}

/// A layer that nobody else has mounted.
pub struct Layer {
    dir: PathBuf,
    _lock: File,
}

/// Which folder, and how it is begun.
pub enum Place {
    /// Gone with the folder of the overlay.
    Scratch(PathBuf),
    /// The same, in memory.
    Memory(PathBuf),
    /// New, and kept.
    New(PathBuf),
    /// As it is, and kept.
    Kept(PathBuf),
}

impl LayerArgs {
    /// Where the layer of an overlay with that folder goes.
    pub fn place(&self, scratch: &Path) -> Place {
        match (&self.upper, &self.keep, self.tmpfs) {
            (Some(dir), ..) => Place::Kept(dir.clone()),
            (None, Some(dir), _) => Place::New(dir.clone()),
            (None, None, true) => Place::Memory(scratch.join("layer")),
            (None, None, false) => Place::Scratch(scratch.join("layer")),
        }
    }
}

impl Layer {
    /// Opens the layer, or begins it.
    pub fn open(place: &Place, cache: &str, store_dir: &str) -> Result<Self, Failure> {
        let (Place::Scratch(dir) | Place::Memory(dir) | Place::New(dir) | Place::Kept(dir)) = place;
        let context = || format!("cannot use {} for what is written", dir.display());
        fs::create_dir_all(dir).context(context)?;
        let dir = fs::canonicalize(dir).context(context)?;
        let empty = fs::read_dir(&dir).context(context)?.next().is_none();
        if !empty && matches!(place, Place::New(_)) {
            let what = format!(
                "{} is not empty: go on with the layer in it with --upper, or choose another \
                 folder to --keep a new one",
                dir.display()
            );
            return Err(Failure::new(what));
        }
        let about = dir.join("layer.json");
        let about = || fs::read(&about);
        if !empty && about().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let what = format!("{} holds something else than a layer", dir.display());
            return Err(Failure::new(what));
        }
        let lock = File::create(dir.join("lock")).context(context)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("the layer in {} is in use", dir.display());
                return Err(Failure::new(what));
            }
            Err(TryLockError::Error(error)) => return Err(error).context(context),
        }
        if !empty {
            let below: Below = serde_json::from_slice(&about().context(context)?)
                .context(|| format!("layer.json in {}", dir.display()))?;
            below.check(&dir, cache, store_dir)?;
        }
        for part in ["upper", "work", "state", "log"] {
            fs::create_dir_all(dir.join(part)).context(context)?;
        }
        let below = Below { cache: cache.to_owned(), store_dir: store_dir.to_owned() };
        write(&dir, &below).context(context)?;
        Ok(Self { dir, _lock: lock })
    }

    /// A part of it.
    pub fn part(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Below {
    fn check(&self, dir: &Path, cache: &str, store_dir: &str) -> Result<(), Failure> {
        if self.store_dir != store_dir {
            let what = format!(
                "the layer in {} is one of a store at {}, and that of {cache} is at {store_dir}",
                dir.display(),
                self.store_dir
            );
            return Err(Failure::new(what));
        }
        if self.cache != cache {
            warn(&format!(
                "the layer in {} was made on top of {}: what {cache} does not have of it is missing",
                dir.display(),
                self.cache
            ));
        }
        Ok(())
    }
}

fn write(dir: &Path, below: &Below) -> io::Result<()> {
    let (new, about) = (dir.join("layer.json.new"), dir.join("layer.json"));
    fs::write(&new, serde_json::to_vec(below)?)?;
    fs::rename(new, about)
}
