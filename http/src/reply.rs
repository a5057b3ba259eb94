//! Answers that carry bytes.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

/// An answer with these bytes, or with their length only for HEAD.
pub(crate) fn whole(method: &Method, content_type: &'static str, bytes: Bytes) -> Response {
    let length = bytes.len();
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

/// An answer as JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            return done(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let mut response = whole(&Method::GET, "application/json", bytes.into());
    *response.status_mut() = status;
    response
}

/// An answer without a body.
pub(crate) fn done(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
