//! From a request to its handler.

mod api;
mod attic;
mod binary_cache;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::App;
use crate::caching;
use crate::error::ApiError;
use crate::health::Health;
use crate::reply;

/// Answers a request.
pub(crate) async fn answer(app: Arc<App>, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let path = request.uri().path();
    let result = if path == "/" {
        Ok(front(request.method()))
    } else if let Some(answer) = app.health.answer(request.method(), path).await {
        Ok(answer)
    } else if is_api(path) {
        Ok(api::answer(app, request).await)
    } else if attic::is_route(path) {
        Ok(attic::answer(app, request).await)
    } else {
        binary_cache::answer(app, request).await
    };
    complete(head, result.unwrap_or_else(IntoResponse::into_response))
}

/// Answers a request to a process without doors.
pub(crate) async fn answer_health(health: Arc<Health>, request: Request) -> Response {
    let answer = health.answer(request.method(), request.uri().path()).await;
    let response = answer.unwrap_or_else(|| ApiError::NotFound.into_response());
    complete(request.method() == Method::HEAD, response)
}

/// What holds for every answer.
fn complete(head: bool, mut response: Response) -> Response {
    if head {
        *response.body_mut() = Body::empty();
    }
    caching::not_otherwise(&mut response);
    response
}

fn is_api(path: &str) -> bool {
    let rest = path.strip_prefix(granary_api::PREFIX);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn front(method: &Method) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return reply::done(StatusCode::METHOD_NOT_ALLOWED);
    }
    let text = "This is Granary, a storehouse for Nix store paths.\n\
                Its caches lie below /<name>: add http://<this host>/<name> to your substituters.\n";
    reply::whole(method, "text/plain; charset=utf-8", text.into())
}

/// Undoes the escapes of a URL.
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

/// A header as text; empty when absent.
fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A small body, decoded as its `Content-Encoding` says.
async fn read_decoded(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let bytes = crate::body::read_small(body, limit).await?;
    let encoding = header_text(headers, header::CONTENT_ENCODING).to_owned();
    if encoding.is_empty() {
        return Ok(bytes);
    }
    crate::body::blocking(move || {
        narbridge::compression::decode_small(&encoding, &bytes, limit)
            .map_err(|error| ApiError::BadRequest(format!("Content-Encoding: {error}")))
    })
    .await
}
