//! Values that are kept in the index only, many at a time.

use super::{Store, StoreError, derived_key};
use crate::index::{Batch, Pairs};

/// Changes that one batch holds. An engine has a batch in memory several times over.
const AT_ONCE: usize = 4096;

impl Store {
    /// The derived values of many keys, in the order asked for.
    pub fn derived_all(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| derived_key(key)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        Ok(self.index.get_many(&keys)?)
    }

    /// Up to `limit` derived values whose key starts with `prefix` and sorts after `after`, in order.
    pub fn scan_derived(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Pairs, StoreError> {
        let after = after.map(derived_key);
        let pairs = self.index.scan(&derived_key(prefix), after.as_deref(), limit)?;
        Ok(pairs.into_iter().map(|(key, value)| (key[1..].to_vec(), value)).collect())
    }

    /// Remembers derived values. After an error some of them may be remembered.
    pub fn remember_all(&self, values: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        for values in values.chunks(AT_ONCE) {
            let mut batch = Batch::default();
            for (key, value) in values {
                batch.put(derived_key(key), &value[..]);
            }
            self.index.apply(&batch)?;
        }
        Ok(())
    }

    /// Forgets derived values. After an error some of them may be forgotten.
    pub fn forget_all(&self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        for keys in keys.chunks(AT_ONCE) {
            let mut batch = Batch::default();
            for key in keys {
                batch.remove(derived_key(key));
            }
            self.index.apply(&batch)?;
        }
        Ok(())
    }
}
