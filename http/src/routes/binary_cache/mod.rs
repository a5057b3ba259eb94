//! The routes of a binary cache, as Nix asks for them. One file per kind of resource.

mod files;
mod listing;
mod nar;
mod narinfo;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use granary_api::Permission;
use narbridge::Cache;
use narbridge::cache::{FileName, NarName};
use nix_compat::store_path::StorePathHash;

use crate::App;
use crate::error::ApiError;
use crate::reply;

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
    method: Method,
    headers: HeaderMap,
    body: Body,
}

/// Answers a request for something below a cache.
pub(super) async fn answer(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (method, headers) = (parts.method, parts.headers);
    match admit(&app, &method, parts.uri.path(), &headers) {
        Ok((cache, resource)) => {
            dispatch(Call { app, cache, method, headers, body }, resource).await
        }
        Err(refusal) => {
            // A client that waits to be told to go on has sent nothing, and must not be told.
            if !headers.contains_key(header::EXPECT) {
                crate::body::drain(body).await;
            }
            Err(refusal)
        }
    }
}

fn find(app: &App, path: &str) -> Option<(Arc<Cache>, Resource)> {
    let (cache, rest) = path.strip_prefix('/')?.split_once('/')?;
    let cache = app.house.cache(cache)?;
    // Nix escapes a few characters (the `!` of realisations) in URLs.
    let resource = match rest.contains('%') {
        true => Resource::parse(&unescape(rest)?)?,
        false => Resource::parse(rest)?,
    };
    Some((cache, resource))
}

fn unescape(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Decides from the head of a request alone whether it is let in.
fn admit(
    app: &App,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(Arc<Cache>, Resource), ApiError> {
    let (cache, resource) = find(app, path).ok_or(ApiError::NotFound)?;
    match *method {
        Method::GET | Method::HEAD => {}
        Method::PUT => {
            app.auth.caller(headers).require(Permission::Push, cache.name().as_str())?;
        }
        _ => return Err(ApiError::Method("GET, HEAD, PUT")),
    }
    Ok((cache, resource))
}

async fn dispatch(call: Call, resource: Resource) -> Result<Response, ApiError> {
    let read = call.method != Method::PUT;
    match (resource, read) {
        (Resource::Info, true) => {
            let info = call.cache.info();
            Ok(reply::whole(&call.method, "text/x-nix-cache-info", info.into()))
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
