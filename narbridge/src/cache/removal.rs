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
    /// that it is as they left it. Blocks.
    ///
    /// With `untouched` also none goes once that topic has been touched after that sequence number.
    pub fn remove_paths(
        &self,
        paths: &[(StorePathHash, u64)],
        untouched: Option<(&'static str, u64)>,
    ) -> Result<Vec<bool>, CacheError> {
        let mut removed = Vec::with_capacity(paths.len());
        for batch in paths.chunks(AT_ONCE) {
            let transactions = batch.iter().map(|(hash, sequence)| {
                let mut transaction = Transaction::default();
                transaction.remove(path_key(self.number, *hash), Expected::Since(*sequence));
                for key in [signature_key, profile_key, used_key] {
                    transaction.derive(&key(self.number, *hash), None);
                }
                if let Some((topic, since)) = untouched {
                    transaction.untouched(topic, since);
                }
                transaction
            });
            let outcomes = self.store.commit_all(transactions.collect());
            // Also where it is not known what became of it.
            batch.iter().for_each(|(hash, _)| self.forget_narinfo(*hash));
            for outcome in outcomes {
                removed.push(match outcome {
                    Ok(_) => true,
                    Err(CommitError::Conflict) => false,
                    Err(error) => return Err(StoreError::from(error).into()),
                });
            }
        }
        Ok(removed)
    }
}
