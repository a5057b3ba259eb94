//! `nar/<hash>.nar…`

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use narbridge::cache::{Copies, NarFile, NarName};
use narbridge::compression::Compression;

use super::Call;
use crate::body::{blocking, stream, with_body};
use crate::caching::{Kept, Lifetime};
use crate::error::ApiError;
use crate::range::{self, Asked};
use crate::reply;
use crate::routes::header_text;

pub(super) async fn get(call: Call, name: NarName) -> Result<Response, ApiError> {
    let cache = call.cache.clone();
    let file = blocking(move || cache.nar(name)).await?.ok_or(ApiError::NotFound)?;
    // Two replicas may hold the same chunks in other frames, and then the files differ: what one has
    // sent the half of, the other must not send the rest of.
    let len = file.len().unwrap_or_default();
    let tag = format!("\"{}-{}-{len:x}\"", file.nar_hash().to_nix32(), file.compression());
    // A NAR never changes under its name.
    let kept = Kept::tagged(&call.cache, Lifetime::Forever, HeaderValue::from_str(&tag).ok());
    if kept.is_had(&call.headers) {
        return Ok(kept.unchanged());
    }
    let redirects = call.app.limits.redirect_from.is_some_and(|from| len >= from);
    let (file, url) = if redirects && call.method == Method::GET {
        directly(call.app.copies.clone(), file).await?
    } else {
        (file, None)
    };
    if let Some(url) = url.and_then(|url| HeaderValue::from_str(&url).ok()) {
        let mut response = reply::done(StatusCode::TEMPORARY_REDIRECT);
        response.headers_mut().insert(header::LOCATION, url);
        // The URL ends, and is for whoever was let in here.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let mut response = Response::new(Body::empty());
    kept.mark(&mut response);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-nix-nar"));
    let mut range = None;
    if let Some(len) = file.len() {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let mut length = len;
        match asked_range(&call.headers, &tag, len) {
            Asked::All => {}
            Asked::Unsatisfiable => {
                headers.insert(header::CONTENT_RANGE, content_range("*", len)?);
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                return Ok(response);
            }
            Asked::Part(part) => {
                length = part.end - part.start;
                let shown = format!("{}-{}", part.start, part.end - 1);
                headers.insert(header::CONTENT_RANGE, content_range(&shown, len)?);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                range = Some(part);
            }
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    if call.method == Method::HEAD {
        return Ok(response);
    }
    // The first window is read before the status goes out: what cannot be read at all is a 404.
    let (first, rest) = blocking(move || {
        let mut body = file.body(range)?;
        let first = body.next_window()?;
        Ok::<_, narbridge::nar::NarError>((first, body))
    })
    .await?;
    *response.body_mut() = stream(first, rest);
    Ok(response)
}

/// Where a NAR is to be had without us, if it is one that frames are sent of as they are stored.
async fn directly(
    copies: Arc<Copies>,
    file: NarFile,
) -> Result<(NarFile, Option<String>), ApiError> {
    if file.compression() != Compression::Zstd {
        return Ok((file, None));
    }
    blocking(move || {
        let url = copies.url_of(&file);
        Ok::<_, ApiError>((file, url))
    })
    .await
}

fn asked_range(headers: &HeaderMap, tag: &str, len: u64) -> Asked {
    // A range of another version of the bytes would be worse than all of these.
    let condition = header_text(headers, header::IF_RANGE);
    if !condition.is_empty() && condition != tag {
        return Asked::All;
    }
    range::parse(headers.get(header::RANGE).and_then(|range| range.to_str().ok()), len)
}

fn content_range(shown: &str, len: u64) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(&format!("bytes {shown}/{len}")).map_err(|_| ApiError::Internal)
}

pub(super) async fn put(call: Call, name: NarName) -> Result<Response, ApiError> {
    let encoding = header_text(&call.headers, header::CONTENT_ENCODING);
    if !encoding.is_empty() {
        let text = format!("Content-Encoding: {encoding} is not taken for NARs");
        return Err(ApiError::BadRequest(text));
    }
    let turn = call.app.turns.take(&call.subject).await?;
    let limit = call.app.limits.max_nar_size;
    let (blind, cache) = (call.blind(), call.cache);
    with_body(call.body, move |reader| {
        let _turn = turn;
        let uploaded = cache.upload_nar(name, reader, limit, blind.as_deref());
        uploaded.map(drop).map_err(ApiError::from)
    })
    .await?;
    Ok(reply::done(StatusCode::CREATED))
}
