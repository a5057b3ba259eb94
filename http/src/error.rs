//! The one table from what went wrong to what a client is told.
//!
//! Nix takes 404 for "not here", retries 5xx, and shows the text of the rest. So nothing that is
//! merely absent is a 5xx, and what the server itself got wrong is told in its log, not to clients.
//! The binary cache answers in plain text; the API says the same as JSON.

use std::error::Error;
use std::io;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use castore::tree::BuildError;
use castore::{Cause, IntakeError, StoreError, UploadError};
use granary_api::ErrorBody;
use granary_api::error::with_causes;
use narbridge::cache::{DeletionError, NarUploadError, PinError, PublishError, PublishNarError};
use narbridge::ingest::IngestError;
use narbridge::nar::NarError;
use narbridge::{CacheError, StorehouseError};

use crate::reply;
use crate::token::Refusal;

/// Why a request was not answered with what it asked for.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// Nothing here by that name.
    NotFound,
    /// No cache has that name.
    NoSuchCache(String),
    /// There is nothing by that name in the cache.
    NoSuchKey(String),
    /// There is nothing of that kind by that name in the cache. The kind of error, and the text.
    NoSuch(&'static str, String),
    /// The request does not fit what is there. What kind of thing that is, and the reason.
    Conflict(&'static str, String),
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
    /// Too much is under way; later there may be room.
    Busy,
    /// The disk is full.
    Full,
    /// The store or the index cannot be reached; the reason is in the log.
    Unavailable,
    /// The server is at fault; the reason is in its log.
    Internal,
}

impl ApiError {
    /// Of what is not the request's fault.
    fn ours(error: &(dyn Error + 'static)) -> Self {
        let (cause, error) = (Cause::of(error), with_causes(error));
        match cause {
            Cause::Unreachable => {
                tracing::warn!(error, "the store or the index cannot be reached");
                Self::Unavailable
            }
            Cause::Full => {
                tracing::error!(error, "the disk is full");
                Self::Full
            }
            // Bytes that are lost or damaged are not here: another substituter may have them.
            Cause::Lost => {
                tracing::error!(error, "a stored path cannot be served");
                Self::NotFound
            }
            Cause::Fault => {
                tracing::error!(error, "a request failed");
                Self::Internal
            }
        }
    }
}

impl ApiError {
    /// The table: status, kind and text.
    fn row(self) -> (StatusCode, &'static str, String) {
        use StatusCode as S;
        match self {
            Self::NotFound => (S::NOT_FOUND, "NotFound", "not found".to_owned()),
            Self::NoSuchCache(name) => {
                (S::NOT_FOUND, "NoSuchCache", format!("there is no cache called {name}"))
            }
            Self::NoSuchKey(text) => (S::NOT_FOUND, "NoSuchKey", text),
            Self::NoSuch(kind, text) => (S::NOT_FOUND, kind, text),
            Self::Method(allowed) => {
                (S::METHOD_NOT_ALLOWED, "MethodNotAllowed", format!("here one can {allowed}"))
            }
            Self::Conflict(kind, text) => (S::CONFLICT, kind, text),
            Self::BadRequest(text) => (S::BAD_REQUEST, "BadRequest", text),
            Self::TooLarge(text) => (S::PAYLOAD_TOO_LARGE, "TooLarge", text),
            Self::Timeout => {
                (S::REQUEST_TIMEOUT, "Timeout", "the upload stopped for too long".to_owned())
            }
            Self::Refused(refusal @ (Refusal::Forbidden | Refusal::NoGrant | Refusal::NotAll)) => {
                (S::FORBIDDEN, "Forbidden", refusal.to_string())
            }
            // Nothing is wrong with the token as far as is known, and clients try again.
            Self::Refused(refusal @ Refusal::NoKeys) => {
                (S::SERVICE_UNAVAILABLE, "NoIssuerKeys", refusal.to_string())
            }
            Self::Refused(refusal) => (S::UNAUTHORIZED, "Unauthorized", refusal.to_string()),
            Self::Busy => {
                let text = "the server is busy with other uploads: try again".to_owned();
                (S::SERVICE_UNAVAILABLE, "Busy", text)
            }
            Self::Full => {
                (S::INSUFFICIENT_STORAGE, "DiskFull", "the server's disk is full".to_owned())
            }
            Self::Unavailable => {
                let text = "the server cannot reach its storage at this moment: try again";
                (S::SERVICE_UNAVAILABLE, "Unavailable", text.to_owned())
            }
            Self::Internal => (
                S::INTERNAL_SERVER_ERROR,
                "InternalServerError",
                "the server failed; its log says why".to_owned(),
            ),
        }
    }

    /// The answer of an API route.
    pub(crate) fn into_json(self) -> Response {
        self.into_json_as(|status, kind| (status, kind))
    }

    /// The same for clients that know errors by other codes and kinds.
    pub(crate) fn into_json_as(
        self,
        known: impl FnOnce(StatusCode, &'static str) -> (StatusCode, &'static str),
    ) -> Response {
        let allowed = self.allowed();
        let (status, kind, message) = self.row();
        let (status, kind) = known(status, kind);
        let body = ErrorBody { code: status.as_u16(), error: kind.to_owned(), message };
        complete(reply::json(status, &body), allowed)
    }

    fn allowed(&self) -> Option<&'static str> {
        if let Self::Method(allowed) = self { Some(allowed) } else { None }
    }
}

impl IntoResponse for ApiError {
    /// The answer of the binary cache.
    fn into_response(self) -> Response {
        let allowed = self.allowed();
        let (status, _, text) = self.row();
        complete((status, format!("{text}\n")).into_response(), allowed)
    }
}

/// Adds the headers that go with a status.
fn complete(mut response: Response, allowed: Option<&'static str>) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"granary\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if let Some(allowed) = allowed {
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::ours(&error)
    }
}

impl From<NarError> for ApiError {
    fn from(error: NarError) -> Self {
        match error {
            NarError::Store(error) => error.into(),
            NarError::NotUtf8(_) => Self::NotFound,
            error => Self::ours(&error),
        }
    }
}

impl From<CacheError> for ApiError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Store(error) => error.into(),
            CacheError::Nar(error) => error.into(),
            error => Self::ours(&error),
        }
    }
}

impl From<StorehouseError> for ApiError {
    fn from(error: StorehouseError) -> Self {
        use StorehouseError as E;
        let text = error.to_string();
        match error {
            E::Store(error) => error.into(),
            E::Cache(error) => error.into(),
            E::NoSuchCache(name) => Self::NoSuchCache(name.to_string()),
            E::NoSuchKey { .. } => Self::NoSuchKey(text),
            E::Setting(_) => Self::BadRequest(text),
            E::Exists(_) => Self::Conflict("CacheExists", text),
            E::Destroyed(_) => Self::Conflict("CacheDestroyed", text),
            E::HasPaths(_) => Self::Conflict("CacheHasPaths", text),
            E::InUse(_) => Self::Conflict("CacheInUse", text),
            E::Buried(_) => Self::Conflict("CacheBuried", text),
            E::KeyExists { .. } => Self::Conflict("KeyExists", text),
            E::LastKey { .. } => Self::Conflict("LastKey", text),
            E::TooManyKeys(_) => Self::Conflict("TooManyKeys", text),
            error => Self::ours(&error),
        }
    }
}

impl From<DeletionError> for ApiError {
    fn from(error: DeletionError) -> Self {
        let text = error.to_string();
        match error {
            DeletionError::Cache(error) => error.into(),
            DeletionError::NotHere { .. } => Self::NoSuch("NoSuchPath", text),
            DeletionError::Referred { .. } => Self::Conflict("PathReferred", text),
            DeletionError::Pinned { .. } => Self::Conflict("PathPinned", text),
            error => Self::ours(&error),
        }
    }
}

impl From<PinError> for ApiError {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Cache(error) => error.into(),
            PinError::NoSuchPath { .. } => Self::NoSuch("NoSuchPath", error.to_string()),
            error => Self::BadRequest(error.to_string()),
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

impl From<PublishNarError> for ApiError {
    fn from(error: PublishNarError) -> Self {
        match error {
            PublishNarError::Ingest(error) => error.into(),
            PublishNarError::Publish(error) => error.into(),
            error => Self::ours(&error),
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

impl From<IntakeError> for ApiError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Store(error) => error.into(),
            IntakeError::Body(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            error => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Upload(UploadError::Store(error)) => error.into(),
            IngestError::Upload(error @ UploadError::Io(_)) => Self::ours(&error),
            IngestError::Upload(UploadError::Tree(BuildError::TooManyEntries))
            | IngestError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            IngestError::Body(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            error => Self::BadRequest(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use castore::index::IndexError;
    use castore::{CommitError, Digest, Kind};
    use narbridge::revocations::RevocationError;

    use super::*;

    /// What a client is told of an error.
    fn told(error: impl Into<ApiError>) -> (u16, Option<String>) {
        let response = error.into().into_response();
        let retry = response.headers().get(header::RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), retry)
    }

    fn io(kind: io::ErrorKind) -> StoreError {
        StoreError::Io(kind.into())
    }

    fn unavailable() -> IndexError {
        IndexError::Unavailable { engine: "test", source: "nobody listens".into() }
    }

    #[test]
    fn a_place_that_is_out_of_reach_is_a_503_to_come_back_after_on_every_way_up() {
        let commit = || StoreError::Commit(CommitError::Storage(Arc::new(unavailable())));
        let down = || io(io::ErrorKind::NetworkDown);
        let upload = || UploadError::Io(io::ErrorKind::NetworkDown.into());
        let ways: Vec<ApiError> = vec![
            down().into(),
            StoreError::Index(unavailable()).into(),
            commit().into(),
            NarError::Store(down()).into(),
            NarError::Frame(io::Error::other(down())).into(),
            CacheError::Store(commit()).into(),
            CacheError::Nar(NarError::Store(down())).into(),
            StorehouseError::Cache(CacheError::Store(down())).into(),
            StorehouseError::Revocation(RevocationError::Store(down())).into(),
            PublishError::Cache(CacheError::Store(down())).into(),
            PublishNarError::Ingest(IngestError::Upload(upload())).into(),
            NarUploadError::Store(commit()).into(),
            NarUploadError::Ingest(IngestError::Upload(UploadError::Store(down()))).into(),
            IntakeError::Store(down()).into(),
            RevocationError::Store(commit()).into(),
        ];
        for way in ways {
            let shown = format!("{way:?}");
            assert_eq!(told(way), (503, Some("5".to_owned())), "{shown}");
        }
    }

    #[test]
    fn what_is_lost_is_not_here_and_what_is_wrong_is_our_fault() {
        let missing = StoreError::Missing { kind: Kind::Chunk, digest: Digest::of(b"x") };
        assert_eq!(told(missing), (404, None));
        assert_eq!(told(io(io::ErrorKind::NotFound)), (404, None));
        assert_eq!(told(NarError::Store(io(io::ErrorKind::NotFound))), (404, None));
        assert_eq!(told(io(io::ErrorKind::StorageFull)), (507, None));
        assert_eq!(told(io(io::ErrorKind::PermissionDenied)), (500, None));
        // A pack that cannot be written to is no answer to what a client sent.
        let upload = UploadError::Io(io::ErrorKind::NotFound.into());
        assert_eq!(told(IngestError::Upload(upload)), (500, None));
    }

    #[test]
    fn clients_are_not_told_what_the_server_rests_on() {
        let source = "postgres://granary:secret@db/granary: no route to host".into();
        let error = StoreError::Index(IndexError::Unavailable { engine: "postgres", source });
        let (_, _, text) = ApiError::from(error).row();
        assert!(!text.contains("postgres") && !text.contains("secret"), "{text}");
    }
}
