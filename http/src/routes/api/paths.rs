//! The paths of a cache: listed page by page, looked at, deleted.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use granary_api::cache::MAX_LISTED;
use granary_api::paths::{KeptPath, MAX_DELETED, PathEntry, PathSizes};
use granary_api::{DeletePaths, DeletedPaths, DetailedPathList, PathInfo, PathList, Permission};
use narbridge::cache::{Deletion, DoomedPath, KeptWhy, ListedPath};
use narbridge::{Cache, Storehouse, cache};
use nix_compat::store_path::StorePathHash;

use super::{Call, json};
use crate::admission::{Right, admit};
use crate::body::{blocking, hear_out};
use crate::error::ApiError;
use crate::reply;

/// A page of the cache's paths: at most `?limit=<n>`, those behind `?after=<hash part>`; with
/// `?details=1` more than their names.
pub(super) async fn list(call: Call, cache: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::Read)?;
    let after = call.query("after").map(str::parse).transpose();
    let after = after.map_err(|error| ApiError::BadRequest(format!("after: {error}")))?;
    let limit = call.query("limit").map(|text| text.parse().ok().filter(|limit| *limit > 0));
    let limit = limit.unwrap_or(Some(MAX_LISTED)).map(|limit| limit.min(MAX_LISTED));
    let wrong = || ApiError::BadRequest("limit: a number from 1 on is wanted".to_owned());
    let limit = limit.ok_or_else(wrong)?;
    let paths = blocking(move || cache.listed_paths(after, limit)).await?;
    // A page that is not full is the last; after a full one there may be nothing.
    let last = paths.last().filter(|_| paths.len() == limit);
    let next = last.map(|listed| listed.path.hash().to_string());
    if call.flag("details") {
        let paths = paths.into_iter().map(entry).collect();
        return Ok(reply::json(StatusCode::OK, &DetailedPathList { paths, next }));
    }
    let paths = paths.iter().map(|listed| listed.path.to_string()).collect();
    Ok(reply::json(StatusCode::OK, &PathList { paths, next }))
}

fn entry(listed: ListedPath) -> PathEntry {
    let ListedPath { path, nar_size, file_size, uploaded } = listed;
    PathEntry { path: path.to_string(), nar_size, file_size, uploaded, last_used: None }
}

/// One path.
pub(super) async fn one(call: Call, cache: &str, path: &str) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => info(call, cache, path).await,
        Method::DELETE => {
            let cache = admit(&call.app, &call.caller, cache, Right::To(Permission::Delete))?;
            let wanted = DeletePaths {
                hashes: vec![path.to_owned()],
                referrers: call.flag("referrers"),
                closure: call.flag("closure"),
                dry_run: call.flag("dry_run"),
                sizes: call.flag("sizes"),
            };
            delete_from(call, cache, wanted).await
        }
        _ => Err(ApiError::Method("GET, HEAD, DELETE")),
    }
}

async fn info(call: Call, cache: &str, path: &str) -> Result<Response, ApiError> {
    // Sizes take the reading of the whole store, and tell of other caches, if little: not for
    // strangers, who may read public caches.
    let right = if call.flag("sizes") { Right::To(Permission::Pull) } else { Right::Read };
    let cache = admit(&call.app, &call.caller, cache, right)?;
    let hash = hash("the path", path)?;
    let house = call.app.house.clone();
    let turn = match call.flag("sizes") {
        true => Some(call.app.turns.weighing().await?),
        false => None,
    };
    let known = !call.caller.permissions(cache.name().as_str()).is_empty();
    let info = blocking(move || {
        let missing = || ApiError::from(not_here(&cache, hash));
        let info = cache.path_info(hash)?.ok_or_else(missing)?;
        let sizes = match turn.is_some() {
            true => Some(house.path_sizes(&cache, hash)?.ok_or_else(missing)?),
            false => None,
        };
        Ok::<_, ApiError>(PathInfo {
            store_path: info.path.to_absolute(cache.store_dir()),
            nar_hash: info.nar_hash.to_string(),
            nar_size: info.nar_size,
            file_size: info.file_size,
            references: info.references,
            deriver: info.deriver,
            signatures: info.signatures,
            ca: info.ca,
            uploaded: info.uploaded,
            uploader: info.uploader.filter(|_| known),
            last_used: None,
            sizes: sizes.map(|sizes| PathSizes {
                own: sizes.own,
                shared: sizes.shared,
                closure: sizes.closure,
            }),
        })
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &info))
}

/// Many paths at once.
pub(super) async fn delete(call: Call, cache: &str) -> Result<Response, ApiError> {
    let admitted = admit(&call.app, &call.caller, cache, Right::To(Permission::Delete));
    let cache = match admitted {
        Ok(cache) if call.method == Method::POST => cache,
        admitted => {
            hear_out(&call.headers, call.body).await;
            return Err(admitted.err().unwrap_or(ApiError::Method("POST")));
        }
    };
    let Call { app, caller, method, uri, headers, body } = call;
    let wanted: DeletePaths = json::read(&headers, body).await?;
    let body = axum::body::Body::empty();
    delete_from(Call { app, caller, method, uri, headers, body }, cache, wanted).await
}

async fn delete_from(
    call: Call,
    cache: Arc<Cache>,
    wanted: DeletePaths,
) -> Result<Response, ApiError> {
    if wanted.hashes.len() > MAX_DELETED {
        let text = format!("hashes: there are more than {MAX_DELETED}: send fewer at once");
        return Err(ApiError::BadRequest(text));
    }
    let paths = wanted.hashes.iter().map(|text| hash("hashes", text));
    let DeletePaths { referrers, closure, dry_run, sizes, .. } = wanted;
    let deletion = Deletion { paths: paths.collect::<Result<_, _>>()?, referrers, closure };
    let weighs = dry_run || sizes;
    let by = call.caller.subject().unwrap_or_default().to_owned();
    // Without sizes it is still the whole cache that is looked at.
    let turn = call.app.turns.take(&by).await?;
    let weighing = if weighs { Some(call.app.turns.weighing().await?) } else { None };
    let house = call.app.house.clone();
    let deleted = blocking(move || {
        let _turns = (turn, weighing);
        let deleted = run(&house, &cache, &deletion, weighs, dry_run)?;
        if !dry_run {
            let (cache, paths) = (cache.name().as_str(), deleted.paths.len());
            tracing::info!(by, cache, paths, "deleted paths");
        }
        Ok::<_, ApiError>(deleted)
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &deleted))
}

fn run(
    house: &Storehouse,
    cache: &Cache,
    deletion: &Deletion,
    weighs: bool,
    dry_run: bool,
) -> Result<DeletedPaths, ApiError> {
    let plan = cache.plan_deletion(deletion)?;
    let freed = match weighs {
        true => {
            let hashes = plan.paths().map(|doomed| doomed.path.hash()).collect();
            Some(house.only_of(cache, &hashes)?)
        }
        false => None,
    };
    let (paths, kept) = match dry_run {
        true => (plan.paths().cloned().collect(), plan.kept().to_vec()),
        false => {
            let deleted = cache.delete(plan)?;
            (deleted.paths, deleted.kept)
        }
    };
    let size = |doomed: &DoomedPath| doomed.nar_size;
    Ok(DeletedPaths {
        nar_size: paths.iter().map(size).sum(),
        paths: paths.iter().map(|doomed| doomed.path.to_string()).collect(),
        freed,
        kept: kept.into_iter().map(kept_path).collect(),
    })
}

fn kept_path(kept: cache::KeptPath) -> KeptPath {
    let why = match kept.why {
        KeptWhy::Referred(by) => format!("{by} needs it"),
        KeptWhy::Pinned(pin) => format!("the pin {pin} keeps it"),
        KeptWhy::Changed => "it was pushed or deleted by somebody else meanwhile".to_owned(),
    };
    KeptPath { path: kept.path, why }
}

fn not_here(cache: &Cache, path: StorePathHash) -> cache::DeletionError {
    cache::DeletionError::NotHere { cache: cache.name().to_string(), path }
}

/// The hash part of a store path.
fn hash(what: &str, text: &str) -> Result<StorePathHash, ApiError> {
    text.parse().map_err(|error| {
        let wanted = "the 32 characters before a store path's name are wanted";
        ApiError::BadRequest(format!("{what}: `{text}`: {error}: {wanted}"))
    })
}
