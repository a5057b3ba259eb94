//! Who the asker is, and which tokens are void.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use granary_api::{Revocations, Revoke, Whoami};
use narbridge::revocations::RevocationError;
use serde::Serialize;

use super::Call;
use crate::auth::ExchangeError;
use crate::body::{blocking, read_small};
use crate::error::ApiError;
use crate::reply;
use crate::token::{Refusal, now};

/// The longest [`Revoke`].
const MAX_BODY: usize = 64 * 1024;

pub(super) async fn whoami(call: Call) -> Result<Response, ApiError> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::Method("GET, HEAD"));
    }
    let claims = call.caller.claims()?;
    let whoami = Whoami {
        subject: claims.map(|claims| claims.subject.clone()),
        id: claims.and_then(|claims| claims.id.clone()),
        expires: claims.and_then(|claims| claims.expires),
        caches: claims.map(|claims| claims.grants.by_pattern().clone()).unwrap_or_default(),
        now: now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    ok(&whoami)
}

pub(super) async fn token(call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    let issued = call.app.auth.exchange(&call.caller)?;
    tracing::info!(
        subject = call.caller.subject().unwrap_or_default(),
        expires = issued.expires,
        "gave a token for an identity token"
    );
    ok(&issued)
}

pub(super) async fn revocations(call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => {
            call.caller.require_all()?;
            let revocations = call.app.house.revocations();
            let ids = revocations.ids().into_iter().collect();
            let subjects = revocations.subjects().into_iter().collect();
            ok(&Revocations { ids, subjects })
        }
        Method::POST => revoke(call).await,
        _ => Err(ApiError::Method("GET, HEAD, POST")),
    }
}

async fn revoke(call: Call) -> Result<Response, ApiError> {
    // Whoever has no token at all need not send anything.
    let claims = call.caller.claims()?.ok_or(Refusal::NoToken)?;
    // Anybody may have an identity token for this server; each revocation is kept for ever.
    if claims.grants.by_pattern().is_empty() {
        return Err(Refusal::NoGrant.into());
    }
    let own = claims.id.clone();
    let body = read_small(call.body, MAX_BODY).await?;
    let revoke: Revoke = serde_json::from_slice(&body).map_err(|error| {
        let wanted = "{\"id\": …} or {\"subject\": …} is wanted";
        ApiError::BadRequest(format!("not a revocation: {error}: {wanted}"))
    })?;
    if !matches!(&revoke, Revoke::Id(id) if own.as_ref() == Some(id)) {
        call.caller.require_all()?;
    }
    let by = call.caller.subject().unwrap_or_default().to_owned();
    let revocations = call.app.house.revocations().clone();
    blocking(move || {
        match &revoke {
            Revoke::Id(id) => revocations.revoke_id(id)?,
            Revoke::Subject(subject) => revocations.revoke_subject(subject)?,
        }
        tracing::info!(by, ?revoke, "revoked tokens");
        Ok::<_, RevocationError>(())
    })
    .await?;
    Ok(reply::done(StatusCode::NO_CONTENT))
}

fn ok(value: &impl Serialize) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, value))
}

impl From<ExchangeError> for ApiError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Refused(refusal) => refusal.into(),
            ExchangeError::NotIdentity => Self::BadRequest(error.to_string()),
            ExchangeError::Random(_) | ExchangeError::Sign(_) => {
                tracing::error!(%error, "a token could not be given");
                Self::Internal
            }
        }
    }
}

impl From<RevocationError> for ApiError {
    fn from(error: RevocationError) -> Self {
        match error {
            RevocationError::Store(error) => error.into(),
            RevocationError::Mark => Self::BadRequest(error.to_string()),
            error => {
                tracing::error!(%error, "a revocation failed");
                Self::Internal
            }
        }
    }
}
