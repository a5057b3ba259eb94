//! The key pairs of a cache. Secret keys come in, and never go out.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use granary_api::{AddKey, KeyInfo, KeyList, Permission};
use narbridge::Cache;
use narbridge::cache::SettingError;
use nix_compat::signature::{self, SigningKey};

use super::caches::{bad, known_name};
use super::{Call, json};
use crate::admission::{Right, admit};
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;
use crate::routes::unescape;

/// All of them: shown, and added to.
pub(super) async fn all(call: Call, cache: &str) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => {
            let cache = admit(&call.app, &call.caller, cache, Right::Know)?;
            Ok(reply::json(StatusCode::OK, &list(&cache)))
        }
        Method::POST => add(call, cache).await,
        _ => Err(ApiError::Method("GET, HEAD, POST")),
    }
}

async fn add(call: Call, cache: &str) -> Result<Response, ApiError> {
    call.caller.require(Permission::Configure, cache)?;
    let wanted: AddKey = json::read(&call.headers, call.body).await?;
    let name = known_name(cache)?;
    let key = signing_key("signing_key", wanted.signing_key)?;
    let house = call.app.house.clone();
    let added = blocking(move || house.add_key(&name, key, wanted.retire_others_after)).await?;
    Ok(reply::json(StatusCode::CREATED, &list(&added)))
}

/// Retires the key of that name, at once or `?after=<seconds>`.
pub(super) async fn one(call: Call, cache: &str, key: &str) -> Result<Response, ApiError> {
    if call.method != Method::DELETE {
        return Err(ApiError::Method("DELETE"));
    }
    call.caller.require(Permission::Configure, cache)?;
    let wrong = || bad(SettingError::new("after", "a number of seconds is wanted"));
    let after = call.query("after").map(|text| text.parse().map_err(|_| wrong()));
    let after = after.transpose()?.unwrap_or(0);
    let name = known_name(cache)?;
    let key = unescape(key).ok_or(ApiError::NotFound)?;
    let house = call.app.house.clone();
    let left = blocking(move || house.retire_key(&name, &key, after)).await?;
    Ok(reply::json(StatusCode::OK, &list(&left)))
}

fn list(cache: &Cache) -> KeyList {
    let keys = cache.keys().iter().map(|key| KeyInfo {
        public_key: key.public_key().to_string(),
        signs_until: key.sign_until(),
    });
    KeyList { keys: keys.collect() }
}

/// Reads the secret key in a field. Nothing of it is repeated when it is wrong.
pub(in crate::routes) fn signing_key(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<SigningKey>, ApiError> {
    let parse = |text: String| {
        text.parse().map_err(|error| {
            let why = match error {
                signature::Error::Name(_) => "its name is empty, or has spaces in it".to_owned(),
                error => error.to_string(),
            };
            let wanted = "the file that `nix-store --generate-binary-cache-key` makes is wanted";
            bad(SettingError::new(field, format!("{why}; {wanted}")))
        })
    };
    text.map(parse).transpose()
}
