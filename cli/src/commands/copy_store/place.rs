//! Where a store is copied from or to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::bytes::{LocalPacks, PackBackend, S3Location, S3Packs};
use tempfile::TempDir;

use crate::failure::{Context, Failure};

/// What a place is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It holds a store.
    Source,
    /// It may have to be made.
    Target,
}

/// A place with packs.
pub struct Place {
    /// Its packs.
    pub packs: Arc<dyn PackBackend>,
    /// Its data folder; `None` for an object store.
    pub dir: Option<PathBuf>,
    /// Keeps servers away meanwhile.
    _lock: Option<File>,
    /// Where what is on its way to or from an object store lies.
    _scratch: Option<TempDir>,
}

/// Opens what a person calls a place: a data folder, or the URL of an object store.
pub fn open_place(text: &str, role: Role) -> Result<Place, Failure> {
    match text.split_once("://") {
        None => open_folder(Path::new(text), role),
        Some(("s3", _)) => open_bucket(text),
        Some((scheme, _)) => Err(Failure::new(format!(
            "`{text}`: {scheme}:// is not a place for a store; a data folder is, or s3://…"
        ))),
    }
}

fn open_bucket(url: &str) -> Result<Place, Failure> {
    let context = || format!("cannot open the store in {url}");
    let location: S3Location = url.parse().context(context)?;
    // What is read is read once.
    let scratch = tempfile::tempdir().context(|| "cannot make a temporary folder".to_owned())?;
    let packs = Arc::new(S3Packs::open(location, scratch.path(), 0).context(context)?);
    Ok(Place { packs, dir: None, _lock: None, _scratch: Some(scratch) })
}

fn open_folder(dir: &Path, role: Role) -> Result<Place, Failure> {
    let packs = dir.join("packs");
    match role {
        Role::Source if !packs.is_dir() => {
            return Err(Failure::new(format!("there is no store in {}", dir.display())));
        }
        Role::Source => {}
        Role::Target => {
            fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        }
    }
    let context = || format!("cannot open the store in {}", dir.display());
    let lock = castore::store::lock(dir).context(context)?;
    let packs = Arc::new(LocalPacks::open(&packs).context(context)?);
    Ok(Place { packs, dir: Some(dir.to_owned()), _lock: Some(lock), _scratch: None })
}

impl Place {
    /// Refuses the same folder as target, whose lock would speak of another process.
    pub fn refuse_same(&self, target: &str) -> Result<(), Failure> {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let source = self.dir.as_deref().and_then(real);
        if source.is_some() && source == real(Path::new(target)) {
            return Err(Failure::new(format!("{target} is the store that is to be copied")));
        }
        Ok(())
    }
}
