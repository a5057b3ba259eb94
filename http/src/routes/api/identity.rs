//! Who the asker is, and which tokens are void.

use axum::response::Response;

use super::Call;
use crate::error::ApiError;

pub(super) async fn whoami(_call: Call) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn token(_call: Call) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}

pub(super) async fn revocations(_call: Call) -> Result<Response, ApiError> {
    Err(ApiError::NotFound)
}
