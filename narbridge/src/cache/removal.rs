//! Taking paths out of a cache. What they held stays where it is until garbage collection.

use castore::{CommitError, Expected, StoreError, Transaction};
use nix_compat::store_path::StorePathHash;

use super::{Cache, CacheError};
use crate::records::{path_key, profile_key, signature_key, used_key};

/// Paths that are removed with one write: enough that what a write costs does not matter, and few
/// enough that others need not wait long for theirs.
const AT_ONCE: usize = 256;

impl Cache {
    /// Removes paths, each with the sequence number of the fact that was read, and each once. For
    /// each whether that happened: `false` says that somebody pushed or removed it meanwhile, and
    /// that it is as they left it; or that somebody pinned something after `pins`
    /// ([`Cache::last_pinned`]), and then it is so of all that follow. Blocks.
    pub fn remove_paths(
        &self,
        paths: &[(StorePathHash, u64)],
        pins: u64,
    ) -> Result<Vec<bool>, CacheError> {
        let mut removed = Vec::with_capacity(paths.len());
        for batch in paths.chunks(AT_ONCE) {
            let transactions = batch.iter().map(|path| self.removal(&[*path], pins));
            let outcomes = self.store.commit_all(transactions.collect());
            // Also where it is not known what became of it.
            batch.iter().for_each(|(hash, _)| self.forget_narinfo(*hash));
            for outcome in outcomes {
                removed.push(happened(outcome)?);
            }
        }
        Ok(removed)
    }

    /// The same, but all of them or none. Blocks.
    pub(crate) fn remove_together(
        &self,
        paths: &[(StorePathHash, u64)],
        pins: u64,
    ) -> Result<bool, CacheError> {
        let outcome = self.store.commit(self.removal(paths, pins));
        paths.iter().for_each(|(hash, _)| self.forget_narinfo(*hash));
        happened(outcome)
    }

    fn removal(&self, paths: &[(StorePathHash, u64)], pins: u64) -> Transaction {
        let mut transaction = Transaction::default();
        for (hash, sequence) in paths {
            transaction.remove(path_key(self.number, *hash), Expected::Since(*sequence));
            for key in [signature_key, profile_key, used_key] {
                transaction.derive(&key(self.number, *hash), None);
            }
        }
        transaction.untouched(self.pins_topic(), pins);
        transaction
    }
}

fn happened(outcome: Result<u64, CommitError>) -> Result<bool, CacheError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict) => Ok(false),
        Err(error) => Err(StoreError::from(error).into()),
    }
}
