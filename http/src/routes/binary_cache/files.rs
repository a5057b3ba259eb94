//! Logs, debug info and realisations: given back as they came, `Content-Encoding` and all.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use narbridge::cache::FileName;

use super::Call;
use crate::body::{blocking, read_small, stream};
use crate::caching::{Kept, Lifetime};
use crate::error::ApiError;
use crate::reply;
use crate::routes::header_text;

/// The longest such file that is kept: build logs may be long.
const MAX_FILE: usize = 64 * 1024 * 1024;

pub(super) async fn get(call: Call, name: FileName) -> Result<Response, ApiError> {
    let (cache, headers, head) = (call.cache, call.headers, call.method == Method::HEAD);
    let (kept, had, file, first) = blocking(move || {
        let mut file = cache.file(&name)?.ok_or(ApiError::NotFound)?;
        let kept = Kept::new(&cache, Lifetime::Minute, file.tag());
        let had = kept.is_had(&headers);
        let first = match head || had {
            true => None,
            false => narbridge::nar::NarBody::next_window(&mut file)?,
        };
        Ok::<_, ApiError>((kept, had, file, first))
    })
    .await?;
    if had {
        return Ok(kept.unchanged());
    }
    let mut response = Response::new(Body::empty());
    kept.mark(&mut response);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, file.len().into());
    for (name, value) in [
        (header::CONTENT_TYPE, file.content_type()),
        (header::CONTENT_ENCODING, file.content_encoding()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
    // What anybody with a token to push has put there is shown by no browser as a page of ours.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if !head {
        *response.body_mut() = stream(first, Box::new(file));
    }
    Ok(response)
}

pub(super) async fn put(call: Call, name: FileName) -> Result<Response, ApiError> {
    let _turn = call.app.turns.take(&call.subject).await?;
    let body = read_small(call.body, MAX_FILE).await?;
    let text = |name| header_text(&call.headers, name).to_owned();
    let (kind, encoding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
    let cache = call.cache;
    blocking(move || cache.put_file(&name, &body, &kind, &encoding)).await?;
    Ok(reply::done(StatusCode::CREATED))
}
