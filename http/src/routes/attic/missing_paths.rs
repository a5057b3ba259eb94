//! `get-missing-paths`: which of these store paths have to be uploaded.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use nix_compat::store_path::StorePathHash;
use serde::{Deserialize, Serialize};

use super::{Call, require_token};
use crate::admission::{admit_pusher, learn_of};
use crate::body::{blocking, hear_out, read_small};
use crate::error::ApiError;
use crate::reply;

/// The longest question: some 450 000 paths.
const MAX_QUESTION: usize = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Question {
    cache: String,
    store_path_hashes: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    missing_paths: Vec<String>,
}

pub(super) async fn answer(call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    if let Err(refusal) = require_token(&call.caller) {
        hear_out(&call.headers, call.body).await;
        return Err(refusal.into());
    }
    let body = read_small(call.body, MAX_QUESTION).await?;
    let asked: Question = serde_json::from_slice(&body)
        .map_err(|error| ApiError::BadRequest(format!("the body is not the question: {error}")))?;
    learn_of(&call.app, &asked.cache).await;
    let (cache, pusher) = admit_pusher(&call.app, &call.caller, &asked.cache)?;
    let hashes = asked.store_path_hashes.iter().map(|hash| hash.parse());
    let mut hashes: Vec<StorePathHash> = hashes
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::BadRequest(format!("store_path_hashes: {error}")))?;
    hashes.sort();
    hashes.dedup();
    let missing = blocking(move || cache.missing_paths(hashes, &pusher)).await?;
    let missing_paths = missing.iter().map(ToString::to_string).collect();
    Ok(reply::json(StatusCode::OK, &Missing { missing_paths }))
}
