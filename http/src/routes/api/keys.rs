//! The key pairs of a cache.

use axum::response::Response;

use super::Call;
use crate::error::ApiError;

pub(super) async fn all(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn one(_call: Call, _cache: &str, _key: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}
