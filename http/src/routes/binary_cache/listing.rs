//! `<hash>.ls`: made from the tree, so what clients upload is only checked for being a listing.

use axum::http::StatusCode;
use axum::response::Response;
use nix_compat::nar::Listing;
use nix_compat::store_path::StorePathHash;

use super::Call;
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;
use crate::routes::read_decoded;

/// The longest listing that is read. Nixpkgs' own source has one of 6 MB.
const MAX_LISTING: usize = 64 * 1024 * 1024;

pub(super) async fn get(call: Call, hash: StorePathHash) -> Result<Response, ApiError> {
    let cache = call.cache;
    let listing = blocking(move || cache.listing(hash)).await?.ok_or(ApiError::NotFound)?;
    Ok(reply::whole(&call.method, "application/json", listing.into()))
}

pub(super) async fn put(call: Call) -> Result<Response, ApiError> {
    let _turn = call.app.turns.take(&call.subject).await?;
    let text = read_decoded(&call.headers, call.body, MAX_LISTING).await?;
    blocking(move || {
        serde_json::from_slice::<Listing>(&text)
            .map(drop)
            .map_err(|error| ApiError::BadRequest(format!("not a NAR listing: {error}")))
    })
    .await?;
    Ok(reply::done(StatusCode::CREATED))
}
