//! Granary's own API, see `granary_api`. One file per kind of resource.

pub(super) mod caches;
mod gc;
mod identity;
pub(super) mod json;
pub(super) mod keys;
mod paths;
mod pins;
mod push;
mod sync;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use granary_api::Permission;

use crate::App;
use crate::admission::learn_of;
use crate::auth::Caller;
use crate::body::hear_out;
use crate::error::ApiError;

/// A request on its way to a handler.
struct Call {
    app: Arc<App>,
    caller: Caller,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
}

impl Call {
    /// A parameter of the query, as it stands there.
    fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Whether the query says `<name>=1`.
    fn flag(&self, name: &str) -> bool {
        self.query(name) == Some("1")
    }
}

/// Answers a request below [`granary_api::PREFIX`].
pub(super) async fn answer(app: Arc<App>, request: Request) -> Response {
    route(app, request).await.unwrap_or_else(ApiError::into_json)
}

async fn route(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
    let caller = app.auth.caller(&headers).await;
    let path = uri.path().strip_prefix(granary_api::PREFIX).unwrap_or_default().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if let ["caches", cache, ..] = segments[..] {
        learn_of(&app, cache).await;
    }
    let call = Call { app, caller, method, uri, headers, body };
    if let ["caches", cache, "paths"] = segments[..]
        && matches!(call.method, Method::GET | Method::HEAD)
    {
        return paths::list(call, cache).await;
    }
    match segments[..] {
        ["caches", cache, "sync"] => return sync::sync(call, cache).await,
        ["caches", cache, "chunks", "read"] => return sync::chunks(call, cache).await,
        ["caches", cache, "profiles"] => return sync::profiles(call, cache).await,
        ["caches", cache, "paths", "delete"] => return paths::delete(call, cache).await,
        ["caches", cache, "paths", path] => return paths::one(call, cache, path).await,
        _ => {}
    }
    // Pushing is for pushers, whatever else may be wrong with a request.
    if let ["caches", cache, "missing" | "chunks" | "paths", ..] = segments[..]
        && let Err(refusal) = call.caller.require(Permission::Push, cache)
    {
        hear_out(&call.headers, call.body).await;
        return Err(refusal.into());
    }
    match segments[..] {
        ["whoami"] => identity::whoami(call).await,
        ["token"] => identity::token(call).await,
        ["revocations"] => identity::revocations(call).await,
        ["gc"] => gc::collect(call).await,
        ["caches"] => caches::list(call).await,
        ["caches", cache] => caches::one(call, cache).await,
        ["caches", cache, "restore"] => caches::restore(call, cache).await,
        ["caches", cache, "keys"] => keys::all(call, cache).await,
        ["caches", cache, "keys", key] => keys::one(call, cache, key).await,
        ["caches", cache, "pins"] => pins::all(call, cache).await,
        ["caches", cache, "pins", pin] => pins::one(call, cache, pin).await,
        ["caches", cache, "pins", pin, "verify"] => pins::verify(call, cache, pin).await,
        ["caches", cache, "missing"] => push::missing_paths(call, cache).await,
        ["caches", cache, "chunks", "missing"] => push::missing_chunks(call, cache).await,
        ["caches", cache, "chunks"] => push::chunks(call, cache).await,
        ["caches", cache, "paths"] => push::paths(call, cache).await,
        _ => Err(ApiError::NotFound),
    }
}
