//! The push protocol, see `granary_api::push`.

use axum::response::Response;

use super::Call;
use crate::error::ApiError;

pub(super) async fn missing_paths(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn missing_chunks(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn chunks(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn paths(_call: Call, _cache: &str) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}
