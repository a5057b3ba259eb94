//! What there is to push: asked in one request, unless paths are very many or parts very small.

use std::collections::HashSet;

use granary_api::CacheInfo;
use granary_api::push::MissingPaths;
use nix_compat::narinfo::fingerprint;
use nix_compat::path_info::PathInfo;
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::StoreDir;

use super::{DEFAULT_PART_SIZE, PushError};
use crate::http::RemoteCache;

/// Paths that are asked about in one request at most, 7 MB.
const ASK: usize = 200_000;
/// What a path takes in the question: a hash part of 32 characters, quotes, a comma, and to spare.
const ASKED_LEN: usize = 40;

/// What is to be done with the paths of a push.
#[derive(Debug)]
pub struct Plan {
    /// The cache.
    pub cache: CacheInfo,
    /// What has to be pushed, in the order that was given.
    pub to_push: Vec<PathInfo>,
    /// How many the cache has.
    pub present: usize,
    /// How many come from upstream, by their signatures.
    pub upstream: usize,
}

/// How a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Push also what upstream caches have.
    pub ignore_upstream: bool,
    /// No body is longer, in bytes.
    pub part_size: usize,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { ignore_upstream: false, part_size: DEFAULT_PART_SIZE }
    }
}

/// Finds out what has to be pushed. `paths` come references first.
pub async fn plan(
    remote: &RemoteCache,
    paths: Vec<PathInfo>,
    store_dir: &StoreDir,
    options: PlanOptions,
) -> Result<Plan, PushError> {
    let (mut missing, mut cache) = (HashSet::new(), None);
    let mut pages = paths.chunks(ASK.min(options.part_size / ASKED_LEN).max(1));
    loop {
        let page = pages.next();
        if page.is_none() && cache.is_some() {
            break;
        }
        let page = page.unwrap_or_default();
        let hashes = page.iter().map(|info| info.store_path.hash().to_string()).collect();
        let answer = remote.missing(&MissingPaths { hashes }).await?;
        missing.extend(answer.hashes);
        cache = Some(answer.cache);
    }
    let Some(cache) = cache else { return Err(PushError::Protocol("it describes no cache")) };
    if cache.store_dir != store_dir.to_string() {
        let (local, remote) = (store_dir.to_string(), cache.store_dir);
        return Err(PushError::StoreDir { cache: cache.name, local, remote });
    }
    let upstream_keys: Vec<VerifyingKey> =
        cache.upstream_keys.iter().filter_map(|key| key.parse().ok()).collect();
    let mut plan = Plan { cache, to_push: Vec::new(), present: 0, upstream: 0 };
    for info in paths {
        if !missing.contains(&info.store_path.hash().to_string()) {
            plan.present += 1;
        } else if !options.ignore_upstream && is_signed(&info, store_dir, &upstream_keys) {
            plan.upstream += 1;
        } else {
            plan.to_push.push(info);
        }
    }
    Ok(plan)
}

/// Whether one of these keys has signed the path. The name of a key alone proves nothing.
fn is_signed(info: &PathInfo, store_dir: &StoreDir, keys: &[VerifyingKey]) -> bool {
    let named = |key: &VerifyingKey| info.signatures.iter().any(|sig| sig.name() == key.name());
    if !keys.iter().any(named) {
        return false;
    }
    let text =
        fingerprint(store_dir, &info.store_path, &info.nar_hash, info.nar_size, &info.references);
    info.signatures.iter().any(|sig| keys.iter().any(|key| key.verify(&text, sig)))
}
