//! Which paths a cache holds, page by page.

use axum::http::StatusCode;
use axum::response::Response;
use granary_api::PathList;
use granary_api::cache::MAX_LISTED;

use super::Call;
use crate::admission::{Right, admit};
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;

/// A page of the cache's paths: at most `?limit=<n>`, those behind `?after=<hash part>`.
pub(super) async fn list(call: Call, cache: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::Read)?;
    let after = call.query("after").map(str::parse).transpose();
    let after = after.map_err(|error| ApiError::BadRequest(format!("after: {error}")))?;
    let limit = call.query("limit").map(|text| text.parse().ok().filter(|limit| *limit > 0));
    let limit = limit.unwrap_or(Some(MAX_LISTED)).map(|limit| limit.min(MAX_LISTED));
    let wrong = || ApiError::BadRequest("limit: a number from 1 on is wanted".to_owned());
    let limit = limit.ok_or_else(wrong)?;
    let paths = blocking(move || cache.paths(after, limit)).await?;
    // A page that is not full is the last; after a full one there may be nothing.
    let last = paths.last().filter(|_| paths.len() == limit);
    let next = last.map(|path| path.hash().to_string());
    let paths = paths.iter().map(ToString::to_string).collect();
    Ok(reply::json(StatusCode::OK, &PathList { paths, next }))
}
