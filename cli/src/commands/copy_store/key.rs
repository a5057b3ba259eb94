//! The server's key, which goes with a store between folders and never to an object store.

use std::fs;
use std::io;
use std::path::Path;

use castore::durable::write_file;
use serde::Serialize;

use crate::failure::{Context, Failure};

/// What became of the server's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKey {
    /// The target has it.
    Copied,
    /// The source has none.
    Absent,
    /// An object store is no place for it.
    NotCopied,
}

/// Copies the key from folder to folder. Another key at the target is left alone, and refused.
pub fn copy(from: Option<&Path>, to: Option<&Path>) -> Result<ServerKey, Failure> {
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(ServerKey::NotCopied);
    };
    let (from, to) = (from.join("server-key"), to.join("server-key"));
    let Some(key) = read(&from)? else {
        return Ok(ServerKey::Absent);
    };
    match read(&to)? {
        Some(there) if there == key => {}
        Some(_) => {
            return Err(Failure::new(format!(
                "{} is the key of another server, which would not open the secrets of this store: \
                 copy to another folder, or move that file away",
                to.display()
            )));
        }
        None => {
            write_file(&to, &key, 0o600).context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(ServerKey::Copied)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(|| format!("cannot read {}", path.display())),
    }
}

impl ServerKey {
    /// What is left to a person.
    pub fn hint(self, from: &str) -> Option<String> {
        let opens = "without it the caches' signing keys do not open";
        match self {
            Self::Copied => None,
            Self::Absent => Some(format!("{from} has no server-key; {opens}")),
            Self::NotCopied => Some(format!(
                "the server's key was not copied: put it as server-key, mode 0600, into the data \
                 folder of each server; {opens}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_copied_for_its_owner_only_and_never_over_another() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let copy = || copy(Some(from.path()), Some(to.path()));
        assert_eq!(copy().unwrap(), ServerKey::Absent);
        fs::write(from.path().join("server-key"), "secret\n").unwrap();
        for _ in 0..2 {
            assert_eq!(copy().unwrap(), ServerKey::Copied);
        }
        let there = to.path().join("server-key");
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&there, "another\n").unwrap();
        assert!(copy().is_err());
        assert_eq!(fs::read_to_string(&there).unwrap(), "another\n");
    }

    #[test]
    fn a_key_does_not_go_to_an_object_store() {
        let from = tempfile::tempdir().unwrap();
        assert_eq!(copy(Some(from.path()), None).unwrap(), ServerKey::NotCopied);
    }
}
