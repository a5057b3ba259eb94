//! What was added to Nix's files, so that just that can be taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, files};

/// What was added for all caches. There is no secret in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// The caches in use, by URL.
    pub caches: BTreeMap<String, Wanted>,
    /// Words that were not there before: substituters and public keys.
    pub(super) words: BTreeSet<String>,
    /// Hosts whose entry in the netrc is ours.
    pub(super) hosts: BTreeSet<String>,
    /// The `netrc-file` that was set.
    pub(super) netrc_file: Option<PathBuf>,
    /// Files that did not exist.
    pub(super) made: BTreeSet<PathBuf>,
}

/// What a cache in use needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Public keys.
    pub keys: BTreeSet<String>,
    /// The netrc with its host's password, for a private cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netrc: Option<Host>,
}

/// A host in a netrc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The host, without port.
    pub host: String,
    /// The file.
    pub file: PathBuf,
}

impl Record {
    pub(super) fn load(path: &Path) -> Result<Self, Error> {
        let Some(bytes) = files::read(path)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes)
            .map_err(|source| Error::Record { path: path.to_owned(), source })
    }

    /// Writes it, or removes it when there is nothing in it.
    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        if *self == Self::default() {
            return files::remove(path);
        }
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Record { path: path.to_owned(), source })?;
        files::write(path, &text, 0o644, false)
    }

    /// Whether a cache in use needs the word.
    pub(super) fn needs(&self, word: &str) -> bool {
        self.caches.iter().any(|(url, cache)| url == word || cache.keys.contains(word))
    }

    /// Whether a private cache in use is at the host.
    pub(super) fn needs_host(&self, host: &str) -> bool {
        let mut hosts = self.caches.values().filter_map(|cache| cache.netrc.as_ref());
        hosts.any(|known| known.host == host)
    }
}
