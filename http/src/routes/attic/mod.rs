//! The API of Attic's server, as its client speaks it, so that a client and its CI jobs need to be
//! told of another address and nothing else. One file per kind of resource.
//!
//! ```text
//! /_api/v1/cache-config/<cache>   GET    -> what the cache is
//!                                 POST   make it      PATCH  change it      DELETE  destroy it
//! /<cache>/attic-cache-info       GET    -> the same as cache-config
//! /_api/v1/get-missing-paths      POST   {cache, store_path_hashes} -> {missing_paths}
//! /_api/v1/upload-path            PUT    a NAR, and what it is, see `nar_info`
//! ```
//!
//! Source: what clients of Attic 0.1 and its main branch of 2025 send and read. Where they want more
//! or less than Granary's own API, it is said in `docs/attic.md`.

mod cache_config;
mod endpoint;
mod error;
mod missing_paths;
mod nar_info;
mod upload_path;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use granary_api::Permission;

use crate::App;
use crate::admission::learn_of;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::routes::unescape;
use crate::token::Refusal;

const PREFIX: &str = "/_api/v1/";
const CACHE_INFO: &str = "/attic-cache-info";

/// A request on its way to a handler.
struct Call {
    app: Arc<App>,
    caller: Caller,
    method: Method,
    headers: HeaderMap,
    body: Body,
}

/// Turns those away who may push nowhere, before anything that they send is read: which cache they
/// mean stands in the body.
fn require_token(caller: &Caller) -> Result<(), Refusal> {
    match caller {
        Caller::Anonymous => Err(Refusal::NoToken),
        Caller::Refused(refusal) => Err(*refusal),
        Caller::Bearer(bearer) if bearer.claims.grants.permit_somewhere(Permission::Push) => Ok(()),
        Caller::Bearer(_) => Err(Refusal::Forbidden),
    }
}

/// Whether a path is one of Attic's.
pub(super) fn is_route(path: &str) -> bool {
    path.starts_with(PREFIX) || info_of(path).is_some()
}

/// The cache whose `attic-cache-info` the path is.
fn info_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.strip_suffix(CACHE_INFO).filter(|cache| !cache.contains('/'))
}

/// Answers a request for which [`is_route`] holds.
pub(super) async fn answer(app: Arc<App>, request: Request) -> Response {
    route(app, request).await.unwrap_or_else(error::into_response)
}

async fn route(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (method, headers) = (parts.method, parts.headers);
    let caller = app.auth.caller(&headers).await;
    let path = unescape(parts.uri.path()).ok_or(ApiError::NotFound)?;
    let other = path.strip_prefix(PREFIX).unwrap_or_default();
    if let Some(cache) = info_of(&path).or_else(|| other.strip_prefix("cache-config/")) {
        learn_of(&app, cache).await;
    }
    let call = Call { app, caller, method, headers, body };
    if let Some(cache) = info_of(&path) {
        return cache_config::info(call, cache);
    }
    match other {
        "get-missing-paths" => missing_paths::answer(call).await,
        "upload-path" => upload_path::answer(call).await,
        other => match other.strip_prefix("cache-config/") {
            Some(cache) => cache_config::answer(call, cache).await,
            None => Err(ApiError::NotFound),
        },
    }
}
