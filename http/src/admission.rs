//! Who is let in to which cache: the one place that decides it, for every route.
//!
//! Whoever lacks the right gets the same answer whether the cache is private, was destroyed, or never
//! was: 401 without a good token, 403 with one. So the right is looked at first, and it is a matter
//! of the cache's name and the token alone; only those who have it hear that there is nothing.

use std::sync::Arc;

use granary_api::Permission;
use narbridge::Cache;
use narbridge::cache::Pusher;

use crate::App;
use crate::auth::Caller;
use crate::error::ApiError;

/// The most caches besides the one pushed to whose chunks count as being there. Each costs a lookup
/// per chunk.
const MAX_OTHER_CACHES: usize = 8;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// To read; on public caches everybody may, with any token or none.
    Read,
    /// To know of the cache: that it is public, or any permission.
    Know,
    /// This permission.
    To(Permission),
}

impl Caller {
    /// What the caller may do to the cache of that name.
    pub(crate) fn permissions(&self, cache: &str) -> Vec<Permission> {
        Permission::ALL.into_iter().filter(|permission| self.may(*permission, cache)).collect()
    }

    /// Lets the caller do one of these things, or says why not.
    pub(crate) fn require_any(
        &self,
        permissions: &[Permission],
        cache: &str,
    ) -> Result<(), ApiError> {
        let mut refusal = None;
        for permission in permissions {
            match self.require(*permission, cache) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}

/// Takes in a cache that another server on the same store has made, so that it is known when it is
/// first asked for. What is known, and what cannot be, costs nothing.
pub(crate) async fn learn_of(app: &App, name: &str) {
    if !app.house.may_know_more(name) {
        return;
    }
    let (house, name) = (app.house.clone(), name.to_owned());
    // What cannot be looked up is answered as if it were not there, and is in the log.
    drop(crate::body::blocking(move || house.look_for_cache(&name)).await);
}

/// The cache of that name, for a caller who has the right.
pub(crate) fn admit(
    app: &App,
    caller: &Caller,
    name: &str,
    right: Right,
) -> Result<Arc<Cache>, ApiError> {
    let cache = app.house.cache(name);
    let public = || cache.as_ref().is_some_and(|cache| cache.is_public());
    match right {
        Right::Read if public() => {}
        Right::Read => caller.require(Permission::Pull, name)?,
        Right::Know if public() => {}
        Right::Know => caller.require_any(&Permission::ALL, name)?,
        Right::To(permission) => caller.require(permission, name)?,
    }
    cache.ok_or_else(|| ApiError::NoSuchCache(name.to_owned()))
}

/// Whether the caller may read the cache.
pub(crate) fn reads(caller: &Caller, cache: &Cache) -> bool {
    cache.is_public() || caller.may(Permission::Pull, cache.name().as_str())
}

/// The cache of that name, for a caller who may push to it, and what the caller may know of.
pub(crate) fn admit_pusher(
    app: &App,
    caller: &Caller,
    name: &str,
) -> Result<(Arc<Cache>, Pusher), ApiError> {
    let cache = admit(app, caller, name, Right::To(Permission::Push))?;
    let subject = caller.subject().unwrap_or_default().to_owned();
    let reads = reads(caller, &cache);
    let intake = if reads { cache.holder() } else { cache.holder_for(&subject) };
    let mut holders = vec![intake];
    let others = app.house.caches().into_iter().filter(|other| {
        let other_name = other.name().as_str();
        let live = other.destroyed().is_none() && other_name != name;
        live && (other.is_public() || caller.may(Permission::Pull, other_name))
    });
    holders.extend(others.take(MAX_OTHER_CACHES).map(|other| other.holder()));
    Ok((cache, Pusher { holders, intake, subject, reads }))
}
