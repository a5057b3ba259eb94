//! Caches: made, shown, changed, destroyed.

use axum::response::Response;

use super::Call;
use crate::error::ApiError;

pub(super) async fn list(_call: Call) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn one(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn restore(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}
