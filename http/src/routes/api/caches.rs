//! Caches: made, shown, changed, destroyed.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use granary_api::cache::{MaxSize, Retention};
use granary_api::{CacheInfo, CacheList, ConfigureCache, CreateCache, DestroyPlan, Permission};
use narbridge::cache::{CacheChanges, CacheSettings, SettingError, UpstreamKey};
use narbridge::sizes::CacheContents;
use narbridge::{Cache, CacheName};
use nix_compat::store_path::StoreDir;

use super::{Call, json, keys};
use crate::admission::{Right, admit};
use crate::auth::Caller;
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;

/// The caches that the caller may know of.
pub(super) async fn list(call: Call) -> Result<Response, ApiError> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::Method("GET, HEAD"));
    }
    // Nobody with a token means to ask as a stranger.
    if let Caller::Refused(refusal) = call.caller {
        return Err(refusal.into());
    }
    let destroyed = call.query("destroyed").is_some_and(|value| value == "1");
    let shown = |cache: &Cache| {
        let name = cache.name().as_str();
        match cache.destroyed() {
            Some(_) => destroyed && call.caller.may(Permission::Destroy, name),
            None => cache.is_public() || !call.caller.permissions(name).is_empty(),
        }
    };
    let caches = call.app.house.caches();
    let caches = caches.iter().filter(|cache| shown(cache)).map(|cache| info(cache, &call.caller));
    Ok(reply::json(StatusCode::OK, &CacheList { caches: caches.collect() }))
}

/// One cache.
pub(super) async fn one(call: Call, name: &str) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => {
            let cache = admit(&call.app, &call.caller, name, Right::Know)?;
            Ok(reply::json(StatusCode::OK, &info(&cache, &call.caller)))
        }
        Method::PUT => create(call, name).await,
        Method::PATCH => configure(call, name).await,
        Method::DELETE => destroy(call, name).await,
        _ => Err(ApiError::Method("GET, HEAD, PUT, PATCH, DELETE")),
    }
}

async fn create(call: Call, name: &str) -> Result<Response, ApiError> {
    call.caller.require(Permission::Create, name)?;
    let wanted: CreateCache = json::read(&call.headers, call.body).await?;
    let name: CacheName = name.parse().map_err(|error| bad(SettingError::new("name", error)))?;
    let usual = CacheSettings::default();
    let settings = CacheSettings {
        public: wanted.public,
        store_dir: store_dir(wanted.store_dir)?.unwrap_or(usual.store_dir),
        priority: wanted.priority.unwrap_or(usual.priority),
        upstream_keys: upstream_keys(wanted.upstream_keys)?.unwrap_or(usual.upstream_keys),
        retention: wanted.retention,
        max_age: wanted.max_age,
        max_size: wanted.max_size,
    };
    let key = keys::signing_key("signing_key", wanted.signing_key)?;
    let house = call.app.house.clone();
    let cache = blocking(move || house.create_cache(&name, &settings, key)).await?;
    Ok(reply::json(StatusCode::CREATED, &info(&cache, &call.caller)))
}

async fn configure(call: Call, name: &str) -> Result<Response, ApiError> {
    // Until the body is read it is not known which of them it takes.
    let either = [Permission::Configure, Permission::ConfigureRetention];
    call.caller.require_any(&either, name)?;
    let wanted: ConfigureCache = json::read(&call.headers, call.body).await?;
    let ConfigureCache { retention, max_age, max_size, .. } = wanted;
    let only_kept = ConfigureCache { retention, max_age, max_size, ..Default::default() };
    if wanted != only_kept {
        call.caller.require(Permission::Configure, name)?;
    }
    if only_kept != ConfigureCache::default() {
        call.caller.require(Permission::ConfigureRetention, name)?;
    }
    let name = known_name(name)?;
    let changes = CacheChanges {
        public: wanted.public,
        store_dir: store_dir(wanted.store_dir)?,
        priority: wanted.priority,
        upstream_keys: upstream_keys(wanted.upstream_keys)?,
        retention: retention.map(Retention::seconds),
        max_age: max_age.map(Retention::seconds),
        max_size: max_size.map(MaxSize::bytes),
    };
    let house = call.app.house.clone();
    let cache = blocking(move || house.configure_cache(&name, &changes)).await?;
    Ok(reply::json(StatusCode::OK, &info(&cache, &call.caller)))
}

async fn destroy(call: Call, name: &str) -> Result<Response, ApiError> {
    call.caller.require(Permission::Destroy, name)?;
    if call.flag("dry_run") {
        return destroy_plan(call, name).await;
    }
    let name = known_name(name)?;
    let house = call.app.house.clone();
    blocking(move || house.destroy_cache(&name)).await?;
    Ok(reply::done(StatusCode::NO_CONTENT))
}

/// What would go with the cache.
async fn destroy_plan(call: Call, name: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, name, Right::To(Permission::Destroy))?;
    let turn = call.app.turns.weighing().await?;
    let house = call.app.house.clone();
    let contents = blocking(move || {
        let _turn = turn;
        house.contents(&cache)
    })
    .await?;
    let CacheContents { paths, nar_size, own } = contents;
    let plan = DestroyPlan { paths, pins: None, nar_size, freed: own };
    Ok(reply::json(StatusCode::OK, &plan))
}

/// Undoes a destruction.
pub(super) async fn restore(call: Call, name: &str) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    call.caller.require(Permission::Destroy, name)?;
    let name = known_name(name)?;
    let house = call.app.house.clone();
    let cache = blocking(move || house.restore_cache(&name)).await?;
    Ok(reply::json(StatusCode::OK, &info(&cache, &call.caller)))
}

/// What the caller is told of a cache.
pub(super) fn info(cache: &Cache, caller: &Caller) -> CacheInfo {
    CacheInfo {
        name: cache.name().to_string(),
        public: cache.is_public(),
        store_dir: cache.store_dir().to_string(),
        priority: cache.priority(),
        upstream_keys: cache.upstream_keys().iter().map(|key| key.to_string()).collect(),
        retention: cache.retention(),
        max_age: cache.max_age(),
        max_size: cache.max_size(),
        public_keys: cache.public_keys().map(|key| key.to_string()).collect(),
        created: cache.created(),
        destroyed: cache.destroyed(),
        permissions: caller.permissions(cache.name().as_str()),
    }
}

/// A text that cannot name a cache is the name of none.
pub(in crate::routes) fn known_name(name: &str) -> Result<CacheName, ApiError> {
    name.parse().map_err(|_| ApiError::NoSuchCache(name.to_owned()))
}

pub(in crate::routes) fn bad(error: SettingError) -> ApiError {
    ApiError::BadRequest(error.to_string())
}

pub(in crate::routes) fn store_dir(text: Option<String>) -> Result<Option<StoreDir>, ApiError> {
    let parse =
        |text: String| text.parse().map_err(|error| bad(SettingError::new("store_dir", error)));
    text.map(parse).transpose()
}

fn upstream_keys(texts: Option<Vec<String>>) -> Result<Option<Vec<UpstreamKey>>, ApiError> {
    let parse = |texts: Vec<String>| texts.iter().map(|text| text.parse().map_err(bad)).collect();
    texts.map(parse).transpose()
}
