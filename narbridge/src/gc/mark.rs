//! Marking what facts name: the trees of paths, of uploaded NARs, and of other files.

use castore::gc::Live;
use castore::{Digest, Fact, Holder};

use super::expire::Gone;
use super::{GcOptions, GcStep};
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
        options: &GcOptions<'_>,
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
                options.go_on()?;
                let hash = <[u8; 20]>::try_from(key).map(Into::into);
                if hash.is_ok_and(|hash| gone.paths.contains(&(number, hash))) {
                    return Ok(());
                }
                let record: PathRecord = decode("a path", &fact.value)?;
                let tree = digest(&record.name, &record.tree)?;
                Ok(live.tree(&tree, &holders(&cache, holder, &record))?)
            })?;
            self.each_fact(&nar_prefix(number), |key, fact| {
                looked_at += 1;
                progress(GcStep::Marking(looked_at));
                options.go_on()?;
                if !gone.nars.is_empty() && gone.nars.contains(&nar_key_of(number, key)) {
                    return Ok(());
                }
                let tree = tree::<NarRecord>(&fact, |record| &record.tree)?;
                Ok(live.tree(&tree, &[holder])?)
            })?;
            self.each_fact(&file_prefix(number), |key, fact| {
                looked_at += 1;
                progress(GcStep::Marking(looked_at));
                options.go_on()?;
                if !gone.files.is_empty()
                    && gone.files.contains(&[&file_prefix(number)[..], key].concat())
                {
                    return Ok(());
                }
                Ok(live.tree(&tree::<FileRecord>(&fact, |record| &record.tree)?, &[])?)
            })?;
        }
        Ok(live)
    }
}

fn nar_key_of(cache: u32, hash: &[u8]) -> Vec<u8> {
    [&nar_prefix(cache)[..], hash].concat()
}

/// Whose claims to a path's chunks are needed: the cache's, and those of an uploader who may not read it.
/// Others have none: if claims were marked that nobody has, so much would be that everything seemed needed.
fn holders(cache: &Cache, holder: Holder, record: &PathRecord) -> Vec<Holder> {
    match record.blind {
        false => vec![holder],
        true => vec![holder, cache.holder_for(&record.uploader)],
    }
}

fn tree<M: prost::Message + Default>(
    fact: &Fact,
    tree: impl Fn(&M) -> &Vec<u8>,
) -> Result<Digest, RecordError> {
    let record: M = decode("a tree", &fact.value)?;
    digest("a tree", tree(&record))
}
