//! `<hash>.narinfo`

use axum::http::StatusCode;
use axum::response::Response;
use nix_compat::narinfo::MAX_NARINFO_SIZE;
use nix_compat::store_path::StorePathHash;

use super::Call;
use crate::body::blocking;
use crate::caching::{Kept, Lifetime};
use crate::error::ApiError;
use crate::reply;
use crate::routes::read_decoded;

pub(super) async fn get(call: Call, hash: StorePathHash) -> Result<Response, ApiError> {
    let narinfo = match call.cache.known_narinfo(hash) {
        Some(known) => known,
        None => {
            let cache = call.cache.clone();
            blocking(move || cache.narinfo(hash)).await?
        }
    };
    let narinfo = narinfo.ok_or(ApiError::NotFound)?;
    let kept = Kept::new(&call.cache, Lifetime::Minute, &narinfo.tag);
    if kept.is_had(&call.headers) {
        return Ok(kept.unchanged());
    }
    let mut response = reply::whole(&call.method, "text/x-nix-narinfo", narinfo.text);
    kept.mark(&mut response);
    Ok(response)
}

pub(super) async fn put(call: Call, hash: StorePathHash) -> Result<Response, ApiError> {
    let blind = call.blind();
    let text = read_decoded(&call.headers, call.body, MAX_NARINFO_SIZE).await?;
    let cache = call.cache;
    blocking(move || cache.publish(hash, &text, blind.as_deref())).await?;
    Ok(reply::done(StatusCode::CREATED))
}
