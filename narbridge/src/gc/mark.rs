//! Marking what facts name: the trees of paths, of uploaded NARs, and of other files.

use castore::gc::Live;
use castore::{Digest, Fact, Holder};

use super::GcStep;
use super::expire::Gone;
use crate::cache::Cache;
use crate::records::{
    FileRecord, NarRecord, PathRecord, RecordError, decode, digest, file_prefix, nar_prefix,
    path_prefix,
};
use crate::storehouse::{Storehouse, StorehouseError};

impl Storehouse {
    /// Marks everything. What a dry run takes for gone is left out.
    pub(super) fn mark(
        &self,
        gone: &Gone,
        progress: &mut dyn FnMut(GcStep),
    ) -> Result<Live, StorehouseError> {
        let mut live = self.store().live()?;
        // What was committed before this has to be marked, in caches too that somebody else made just now.
        self.refresh()?;
        let mut looked_at = 0;
        for cache in self.caches() {
            let number = cache.number();
            if gone.caches.contains(&number) {
                continue;
            }
            let holder = cache.holder();
            self.each_fact(&path_prefix(number), |key, fact| {
                looked_at += 1;
                progress(GcStep::Marking(looked_at));
                let hash = <[u8; 20]>::try_from(key).map(Into::into);
                if hash.is_ok_and(|hash| gone.paths.contains(&(number, hash))) {
                    return Ok(());
                }
                let record: PathRecord = decode("a path", &fact.value)?;
                let tree = digest(&record.name, &record.tree)?;
                Ok(live.tree(&tree, &holders(&cache, holder, &record.uploader))?)
            })?;
            self.each_fact(&nar_prefix(number), |key, fact| {
                looked_at += 1;
                progress(GcStep::Marking(looked_at));
                if !gone.nars.is_empty() && gone.nars.contains(&nar_key_of(number, key)) {
                    return Ok(());
                }
                let tree = tree::<NarRecord>(&fact, |record| &record.tree)?;
                Ok(live.tree(&tree, &[holder])?)
            })?;
            self.each_fact(&file_prefix(number), |_, fact| {
                looked_at += 1;
                progress(GcStep::Marking(looked_at));
                Ok(live.tree(&tree::<FileRecord>(&fact, |record| &record.tree)?, &[])?)
            })?;
        }
        Ok(live)
    }
}

fn nar_key_of(cache: u32, hash: &[u8]) -> Vec<u8> {
    [&nar_prefix(cache)[..], hash].concat()
}

/// Whose claims to a path's chunks are needed: the cache's, and the uploader's, who may not be let in to
/// the cache.
fn holders(cache: &Cache, holder: Holder, uploader: &str) -> Vec<Holder> {
    match uploader {
        "" => vec![holder],
        subject => vec![holder, cache.holder_for(subject)],
    }
}

fn tree<M: prost::Message + Default>(
    fact: &Fact,
    tree: impl Fn(&M) -> &Vec<u8>,
) -> Result<Digest, RecordError> {
    let record: M = decode("a tree", &fact.value)?;
    digest("a tree", tree(&record))
}
