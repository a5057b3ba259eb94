//! `<hash>.ls`: made from the tree, so what clients upload is only checked for being a listing.

use axum::http::StatusCode;
use axum::response::Response;
use nix_compat::nar::Listing;
use nix_compat::store_path::StorePathHash;

use super::Call;
use crate::body::blocking;
use crate::caching::{Kept, Lifetime};
use crate::error::ApiError;
use crate::reply;
use crate::routes::read_decoded;

/// The longest listing that is read. Nixpkgs' own source has one of 6 MB.
const MAX_LISTING: usize = 64 * 1024 * 1024;

pub(super) async fn get(call: Call, hash: StorePathHash) -> Result<Response, ApiError> {
    let (cache, headers) = (call.cache, call.headers);
    let (kept, text) = blocking(move || {
        let listing = cache.listing(hash)?.ok_or(ApiError::NotFound)?;
        let kept = Kept::new(&cache, Lifetime::Minute, &listing.tag());
        let text = if kept.is_had(&headers) { None } else { Some(listing.text()?) };
        Ok::<_, ApiError>((kept, text))
    })
    .await?;
    let Some(text) = text else { return Ok(kept.unchanged()) };
    let mut response = reply::whole(&call.method, "application/json", text.into());
    kept.mark(&mut response);
    Ok(response)
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
