//! `cache-config/<cache>`: a cache made, shown, changed, destroyed.

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use granary_api::Permission;
use narbridge::cache::{CacheChanges, CacheSettings, SettingError, UpstreamKey};
use narbridge::{Cache, CacheName};
use nix_compat::signature::SigningKey;
use serde::{Deserialize, Serialize};

use super::{Call, endpoint};
use crate::admission::{Right, admit};
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;
use crate::routes::api::{caches, json, keys};

/// A retention that Attic calls 0, for ever: a thousand years. Attic counts in 32 bits, so all that
/// is longer is for ever, too.
const FOR_EVER: u64 = 1000 * 365 * 24 * 3600;

/// What a client wants a cache to be. To make one it says all of it but the retention.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    keypair: Option<Keypair>,
    is_public: Option<bool>,
    store_dir: Option<String>,
    priority: Option<u32>,
    upstream_cache_key_names: Option<Vec<String>>,
    retention_period: Option<RetentionPeriod>,
}

#[derive(Deserialize)]
enum Keypair {
    /// A new one.
    Generate,
    /// This one, in Nix's format.
    Keypair(String),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum RetentionPeriod {
    /// The server's default.
    Global,
    /// So many seconds; 0 for ever.
    Period(u32),
}

/// What a cache is.
#[derive(Serialize)]
struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    substituter_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    is_public: bool,
    store_dir: String,
    priority: u32,
    upstream_cache_key_names: Vec<String>,
    retention_period: RetentionPeriod,
}

impl Wanted {
    /// Whether it says anything beside the retention.
    fn has_settings(&self) -> bool {
        let Self { keypair, is_public, store_dir, priority, upstream_cache_key_names, .. } = self;
        let texts = store_dir.is_some() || upstream_cache_key_names.is_some();
        keypair.is_some() || is_public.is_some() || priority.is_some() || texts
    }
}

impl RetentionPeriod {
    fn of(retention: Option<u64>) -> Self {
        match retention {
            None => Self::Global,
            Some(seconds) => Self::Period(u32::try_from(seconds).unwrap_or(0)),
        }
    }

    fn retention(self) -> Option<u64> {
        match self {
            Self::Global => None,
            Self::Period(0) => Some(FOR_EVER),
            Self::Period(seconds) => Some(seconds.into()),
        }
    }
}

pub(super) async fn answer(call: Call, name: &str) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => info(call, name),
        Method::POST => create(call, name).await,
        Method::PATCH => configure(call, name).await,
        Method::DELETE => destroy(call, name).await,
        _ => Err(ApiError::Method("GET, HEAD, POST, PATCH, DELETE")),
    }
}

/// Whoever may know of the cache: pushers want to see it before they push.
pub(super) fn info(call: Call, name: &str) -> Result<Response, ApiError> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::Method("GET, HEAD"));
    }
    let cache = admit(&call.app, &call.caller, name, Right::Know)?;
    let config = Config {
        substituter_endpoint: endpoint::substituter(&call.headers, name),
        public_key: cache.public_keys().next().map(|key| key.to_string()),
        is_public: cache.is_public(),
        store_dir: cache.store_dir().to_string(),
        priority: cache.priority(),
        upstream_cache_key_names: key_names(&cache),
        retention_period: RetentionPeriod::of(cache.retention()),
    };
    let mut response = reply::json(StatusCode::OK, &config);
    // It says what the request's headers said: not for others, who send other ones.
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn create(call: Call, name: &str) -> Result<Response, ApiError> {
    call.caller.require(Permission::Create, name)?;
    let wanted: Wanted = json::read(&call.headers, call.body).await?;
    let name: CacheName =
        name.parse().map_err(|error| caches::bad(SettingError::new("cache", error)))?;
    let usual = CacheSettings::default();
    let settings = CacheSettings {
        public: wanted.is_public.unwrap_or(usual.public),
        store_dir: caches::store_dir(wanted.store_dir)?.unwrap_or(usual.store_dir),
        priority: wanted.priority.unwrap_or(usual.priority),
        upstream_keys: upstream_keys(wanted.upstream_cache_key_names, &[])?
            .unwrap_or(usual.upstream_keys),
        retention: wanted.retention_period.and_then(RetentionPeriod::retention),
        ..usual
    };
    let key = wanted.keypair.map_or(Ok(None), signing_key)?;
    let house = call.app.house.clone();
    blocking(move || house.create_cache(&name, &settings, key)).await?;
    Ok(reply::done(StatusCode::OK))
}

async fn configure(call: Call, name: &str) -> Result<Response, ApiError> {
    // Until the body is read it is not known which of them it takes.
    let either = [Permission::Configure, Permission::ConfigureRetention];
    call.caller.require_any(&either, name)?;
    let wanted: Wanted = json::read(&call.headers, call.body).await?;
    if !wanted.has_settings() && wanted.retention_period.is_none() {
        return Err(ApiError::BadRequest("nothing that can be changed is named".to_owned()));
    }
    if wanted.has_settings() {
        call.caller.require(Permission::Configure, name)?;
    }
    let cache = admit(&call.app, &call.caller, name, Right::Know)?;
    // Clients that are to change something else say `Global`, too: nothing if it is that already.
    let retention = wanted.retention_period.map(RetentionPeriod::retention);
    let retention = retention.filter(|retention| *retention != cache.retention());
    if retention.is_some() {
        call.caller.require(Permission::ConfigureRetention, name)?;
    }
    let changes = CacheChanges {
        public: wanted.is_public,
        store_dir: caches::store_dir(wanted.store_dir)?,
        priority: wanted.priority,
        upstream_keys: upstream_keys(wanted.upstream_cache_key_names, cache.upstream_keys())?,
        retention,
        ..CacheChanges::default()
    };
    let key = wanted.keypair.map(signing_key).transpose()?;
    let name = cache.name().clone();
    // A cache that somebody uses cannot be moved.
    drop(cache);
    let house = call.app.house.clone();
    blocking(move || {
        house.configure_cache(&name, &changes)?;
        key.map(|key| house.replace_keys(&name, key)).transpose()
    })
    .await?;
    Ok(reply::done(StatusCode::OK))
}

async fn destroy(call: Call, name: &str) -> Result<Response, ApiError> {
    call.caller.require(Permission::Destroy, name)?;
    let name = caches::known_name(name)?;
    let house = call.app.house.clone();
    blocking(move || house.destroy_cache(&name)).await?;
    Ok(reply::done(StatusCode::OK))
}

/// `None` for a new one.
fn signing_key(keypair: Keypair) -> Result<Option<SigningKey>, ApiError> {
    match keypair {
        Keypair::Generate => Ok(None),
        Keypair::Keypair(text) => keys::signing_key("keypair", Some(text)),
    }
}

fn key_names(cache: &Cache) -> Vec<String> {
    cache.upstream_keys().iter().map(|key| name_of(key).to_owned()).collect()
}

fn name_of(key: &UpstreamKey) -> &str {
    match key {
        UpstreamKey::Key(key) => key.name(),
        UpstreamKey::Name(name) => name,
    }
}

/// Attic knows keys by their names alone. A name whose key is known here stands for that key.
fn upstream_keys(
    names: Option<Vec<String>>,
    known: &[UpstreamKey],
) -> Result<Option<Vec<UpstreamKey>>, ApiError> {
    let find = |name: &String| match known.iter().find(|key| name_of(key) == name) {
        Some(UpstreamKey::Key(key)) => Ok(UpstreamKey::Key(key.clone())),
        _ => name.parse().map_err(caches::bad),
    };
    names.map(|names| names.iter().map(find).collect()).transpose()
}
