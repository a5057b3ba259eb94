//! The one table from what went wrong to what a client is told.
//!
//! Nix takes 404 for "not here", retries 5xx, and shows the text of the rest. So nothing that is
//! merely absent is a 5xx, and what the server itself got wrong is told in its log, not to clients.

use std::io;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use castore::{StoreError, UploadError};
use narbridge::CacheError;
use narbridge::cache::{NarUploadError, PublishError};
use narbridge::ingest::IngestError;
use narbridge::nar::NarError;

use crate::token::Refusal;

/// Why a request was not answered with what it asked for.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// Nothing here by that name.
    NotFound,
    /// Something is here, but not that way.
    Method(&'static str),
    /// The request is at fault.
    BadRequest(String),
    /// The body is larger than is taken.
    TooLarge(String),
    /// The client stopped sending.
    Timeout,
    /// The client may not do this.
    Refused(Refusal),
    /// The disk is full.
    Full,
    /// The server is at fault; the reason is in its log.
    Internal,
}

impl ApiError {
    fn internal(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        tracing::error!(error = text, "a request failed");
        Self::Internal
    }

    fn io(error: &io::Error, whole: &dyn std::error::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                tracing::error!(%error, "the disk is full");
                Self::Full
            }
            _ => Self::internal(whole),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not found".to_owned()),
            Self::Method(allowed) => {
                let mut response = StatusCode::METHOD_NOT_ALLOWED.into_response();
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                return response;
            }
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
            Self::TooLarge(text) => (StatusCode::PAYLOAD_TOO_LARGE, text),
            Self::Timeout => {
                (StatusCode::REQUEST_TIMEOUT, "the upload stopped for too long".to_owned())
            }
            Self::Refused(refusal @ Refusal::Forbidden) => {
                (StatusCode::FORBIDDEN, refusal.to_string())
            }
            Self::Refused(refusal) => (StatusCode::UNAUTHORIZED, refusal.to_string()),
            Self::Full => {
                (StatusCode::INSUFFICIENT_STORAGE, "the server's disk is full".to_owned())
            }
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server failed; its log says why".to_owned(),
            ),
        };
        let mut response = (status, format!("{text}\n")).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"granary\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            // Bytes that are lost or damaged are not here: another substituter may have them.
            StoreError::Missing { .. } | StoreError::Damaged { .. } => {
                tracing::error!(%error, "a stored path cannot be served");
                Self::NotFound
            }
            StoreError::Io(io) => Self::io(io, &error),
            StoreError::Commit(castore::CommitError::Storage(inner)) => {
                match inner.downcast_ref::<io::Error>() {
                    Some(io) => Self::io(io, &error),
                    None => Self::internal(&error),
                }
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<NarError> for ApiError {
    fn from(error: NarError) -> Self {
        match error {
            NarError::Store(error) => error.into(),
            NarError::NotUtf8(_) => Self::NotFound,
            error => Self::internal(&error),
        }
    }
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Store(error) => error.into(),
            CacheError::Nar(error) => error.into(),
            error => Self::internal(&error),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Cache(error) => error.into(),
            error => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<NarUploadError> for ApiError {
    fn from(error: NarUploadError) -> Self {
        match error {
            NarUploadError::Store(error) => error.into(),
            NarUploadError::Ingest(error) => error.into(),
            error => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Upload(UploadError::Store(error)) => error.into(),
            IngestError::Upload(UploadError::Io(error)) => StoreError::Io(error).into(),
            IngestError::Upload(UploadError::TooManyEntries) | IngestError::TooLarge { .. } => {
                Self::TooLarge(error.to_string())
            }
            IngestError::Body(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            error => Self::BadRequest(error.to_string()),
        }
    }
}
