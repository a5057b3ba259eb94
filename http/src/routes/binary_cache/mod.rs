//! The routes of a binary cache, as Nix asks for them. One file per kind of resource.

mod files;
mod listing;
mod nar;
mod narinfo;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use granary_api::Permission;
use narbridge::cache::{FileName, NarName, Tag};
use narbridge::{Cache, CacheName};
use nix_compat::store_path::StorePathHash;

use crate::App;
use crate::admission::{self, Right};
use crate::auth::Caller;
use crate::body::hear_out;
use crate::caching::{Kept, Lifetime};
use crate::error::ApiError;
use crate::reply;
use crate::routes::unescape;

/// What a path below a cache names.
enum Resource {
    Info,
    Narinfo(StorePathHash),
    Listing(StorePathHash),
    Nar(NarName),
    File(FileName),
}

impl Resource {
    fn parse(path: &str) -> Option<Self> {
        if path == "nix-cache-info" {
            return Some(Self::Info);
        }
        if let Some(hash) = path.strip_suffix(".narinfo") {
            return hash.parse().ok().map(Self::Narinfo);
        }
        if let Some(hash) = path.strip_suffix(".ls") {
            return hash.parse().ok().map(Self::Listing);
        }
        if let Some(name) = path.strip_prefix("nar/") {
            return name.parse().ok().map(Self::Nar);
        }
        FileName::parse(path).ok().map(Self::File)
    }
}

/// A request on its way to a handler.
struct Call {
    app: Arc<App>,
    cache: Arc<Cache>,
    /// Subject of the caller's token.
    subject: String,
    /// Whether the caller may read the cache. One who may not is not told what is in it.
    reads: bool,
    method: Method,
    headers: HeaderMap,
    body: Body,
}

impl Call {
    /// The subject, if the caller may not read the cache.
    fn blind(&self) -> Option<String> {
        (!self.reads).then(|| self.subject.clone())
    }
}

/// Answers a request for something below a cache.
pub(super) async fn answer(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (method, headers) = (parts.method, parts.headers);
    match admit(&app, &method, parts.uri.path(), &headers).await {
        Ok((cache, caller, resource)) => {
            let subject = caller.subject().unwrap_or_default().to_owned();
            let reads = admission::reads(&caller, &cache);
            dispatch(Call { app, cache, subject, reads, method, headers, body }, resource).await
        }
        Err(refusal) => {
            hear_out(&headers, body).await;
            Err(refusal)
        }
    }
}

/// Decides from the head of a request alone whether it is let in.
async fn admit(
    app: &App,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(Arc<Cache>, Caller, Resource), ApiError> {
    let read = match *method {
        Method::GET | Method::HEAD => true,
        Method::PUT => false,
        _ => return Err(ApiError::Method("GET, HEAD, PUT")),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    // No cache can have such a name (`favicon.ico`), so this tells nothing of those that exist.
    if name.parse::<CacheName>().is_err() {
        return Err(ApiError::NotFound);
    }
    let resource = parse(rest);
    let right = match (read, &resource) {
        (true, Some(Resource::Info)) => Right::Know,
        (true, _) => Right::Read,
        (false, _) => Right::To(Permission::Push),
    };
    admission::learn_of(app, name).await;
    let caller = app.auth.caller(headers).await;
    let cache = admission::admit(app, &caller, name, right)?;
    Ok((cache, caller, resource.ok_or(ApiError::NotFound)?))
}

/// What a path below a cache names. Nix escapes a few characters (the `!` of realisations) in URLs.
fn parse(path: &str) -> Option<Resource> {
    if path.contains('%') { Resource::parse(&unescape(path)?) } else { Resource::parse(path) }
}

async fn dispatch(call: Call, resource: Resource) -> Result<Response, ApiError> {
    let read = call.method != Method::PUT;
    match (resource, read) {
        (Resource::Info, true) => {
            let info = call.cache.info();
            let kept = Kept::new(&call.cache, Lifetime::Minute, &Tag::of(info.as_bytes()));
            if kept.is_had(&call.headers) {
                return Ok(kept.unchanged());
            }
            let mut response = reply::whole(&call.method, "text/x-nix-cache-info", info.into());
            kept.mark(&mut response);
            Ok(response)
        }
        (Resource::Info, false) => Err(ApiError::Method("GET, HEAD")),
        (Resource::Narinfo(hash), true) => narinfo::get(call, hash).await,
        (Resource::Narinfo(hash), false) => narinfo::put(call, hash).await,
        (Resource::Listing(hash), true) => listing::get(call, hash).await,
        (Resource::Listing(_), false) => listing::put(call).await,
        (Resource::Nar(name), true) => nar::get(call, name).await,
        (Resource::Nar(name), false) => nar::put(call, name).await,
        (Resource::File(name), true) => files::get(call, name).await,
        (Resource::File(name), false) => files::put(call, name).await,
    }
}
