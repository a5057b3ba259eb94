//! Refusals as Attic's client knows them: `{"code": 404, "error": "NoSuchCache", "message": "…"}`.

use axum::http::StatusCode;
use axum::response::Response;

use crate::error::ApiError;

/// The answer. Scripts know some kinds of error by the names and codes that Attic gives them.
pub(super) fn into_response(error: ApiError) -> Response {
    error.into_json_as(|status, kind| match kind {
        "BadRequest" => (status, "RequestError"),
        "Forbidden" => (status, "AccessError"),
        "CacheExists" | "CacheDestroyed" => (StatusCode::BAD_REQUEST, "CacheAlreadyExists"),
        kind => (status, kind),
    })
}
