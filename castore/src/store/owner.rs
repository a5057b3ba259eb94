//! Whose packs these are: one index goes with them.
//!
//! Two servers with an index each on the same packs would give out the same sequence numbers and not
//! see each other's changes. So the packs carry a note with the id of their index, and another index is
//! refused. The embedded engines' id is a file of the data directory, since the index itself may be
//! remade there at any time; that of an index elsewhere is kept in it.

use std::io;
use std::path::Path;

use super::StoreError;
use super::open::at;
use crate::bytes::{Durability, PackBackend};
use crate::durable::write_file;
use crate::index::{Batch, Index, IndexError};
use crate::pack::PackId;

const NOTE: &str = "owner";
const ID_KEY: &[u8] = b"m/id";
const ID_FILE: &str = "index-id";

/// Makes sure that the packs belong to this index, or to none so far. With `take_over` they do from
/// now on. `elsewhere` is the index, unless it is embedded.
pub(super) fn claim(
    dir: &Path,
    backend: &dyn PackBackend,
    elsewhere: Option<&dyn Index>,
    take_over: bool,
) -> Result<(), StoreError> {
    let id = match elsewhere {
        Some(index) => id_in(index)?,
        // The folder is locked, and holds both.
        None if backend.durability() == Durability::Synced => return Ok(()),
        None => id_beside(dir)?,
    };
    let owner = backend.note(NOTE)?.unwrap_or_default();
    match owner.trim() {
        owner if owner == id => Ok(()),
        "" => Ok(backend.set_note(NOTE, &id)?),
        _ if take_over => Ok(backend.set_note(NOTE, &id)?),
        _ => Err(StoreError::ForeignIndex),
    }
}

fn id_in(index: &dyn Index) -> Result<String, StoreError> {
    loop {
        if let Some(id) = index.get(ID_KEY)? {
            return Ok(String::from_utf8_lossy(&id).into_owned());
        }
        let mut batch = Batch::default();
        batch.expect(ID_KEY, None).put(ID_KEY, PackId::random()?.to_string());
        match index.apply(&batch) {
            Ok(()) | Err(IndexError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn id_beside(dir: &Path) -> Result<String, StoreError> {
    let path = dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = PackId::random()?.to_string();
            write_file(&path, format!("{id}\n").as_bytes(), 0o644)
                .map_err(at("cannot write", &path))?;
            Ok(id)
        }
        Err(error) => Err(at("cannot read", &path)(error)),
    }
}
