//! The pins of a cache. Whoever may read the cache may look at them.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use granary_api::Permission;
use granary_api::pin::{self, AddPin, DamagedPath, MissingPath, PinInfo, PinList, PinReport};
use narbridge::Cache;
use narbridge::cache::pins::Need;
use narbridge::cache::{Pin, PinName, PinRequest, PinRevision, SettingError, pins};
use nix_compat::store_path::StorePath;

use super::caches::bad;
use super::{Call, json};
use crate::admission::{Right, admit, reads};
use crate::auth::Caller;
use crate::body::blocking;
use crate::error::ApiError;
use crate::reply;
use crate::routes::unescape;

/// All of them.
pub(super) async fn all(call: Call, cache: &str) -> Result<Response, ApiError> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::Method("GET, HEAD"));
    }
    let cache = admit(&call.app, &call.caller, cache, Right::Read)?;
    let named = names_people(&call.caller, &cache);
    let pins = blocking(move || cache.pins()).await?;
    let pins = pins.iter().map(|pin| info(pin, named)).collect();
    Ok(reply::json(StatusCode::OK, &PinList { pins }))
}

/// One of them.
pub(super) async fn one(call: Call, cache: &str, name: &str) -> Result<Response, ApiError> {
    match call.method {
        Method::GET | Method::HEAD => show(call, cache, name).await,
        Method::PUT => add(call, cache, name).await,
        Method::DELETE => remove(call, cache, name).await,
        _ => Err(ApiError::Method("GET, HEAD, PUT, DELETE")),
    }
}

async fn show(call: Call, cache: &str, name: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::Read)?;
    let named = names_people(&call.caller, &cache);
    let name = known_name(name)?;
    let pin = blocking({
        let name = name.clone();
        move || cache.pin(&name)
    });
    let pin = pin.await?.ok_or_else(|| no_such_pin(name.as_str()))?;
    Ok(reply::json(StatusCode::OK, &info(&pin, named)))
}

async fn add(call: Call, cache: &str, name: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::To(Permission::Pin))?;
    let wanted: AddPin = json::read(&call.headers, call.body).await?;
    let name = unescape(name).ok_or(ApiError::NotFound)?;
    let name: PinName = name.parse().map_err(|error| bad(SettingError::new("name", error)))?;
    let request = PinRequest {
        path: path(&wanted.path, &cache)?,
        revisions: wanted.revisions,
        until: wanted.until,
        with_sources: wanted.with_sources,
        created_by: call.caller.subject().unwrap_or_default().to_owned(),
    };
    let reads = reads(&call.caller, &cache);
    let mut pin = blocking(move || cache.add_pin(&name, &request)).await?;
    if !reads {
        // What was pinned before by others is told to those who may read.
        pin.revisions.truncate(1);
    }
    Ok(reply::json(StatusCode::OK, &info(&pin, reads)))
}

async fn remove(call: Call, cache: &str, name: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::To(Permission::Pin))?;
    let name = known_name(name)?;
    let removed = blocking({
        let name = name.clone();
        move || cache.remove_pin(&name)
    });
    match removed.await? {
        true => Ok(reply::done(StatusCode::NO_CONTENT)),
        false => Err(no_such_pin(name.as_str())),
    }
}

/// Looks whether what a pin keeps is all there. It may take long, and so is not for strangers.
pub(super) async fn verify(call: Call, cache: &str, name: &str) -> Result<Response, ApiError> {
    let cache = admit(&call.app, &call.caller, cache, Right::To(Permission::Pull))?;
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    let name = known_name(name)?;
    let turn = call.app.turns.sync().await?;
    let found = blocking({
        let name = name.clone();
        move || {
            let _turn = turn;
            cache.verify_pin(&name)
        }
    });
    let found = found.await?.ok_or_else(|| no_such_pin(name.as_str()))?;
    Ok(reply::json(StatusCode::OK, &report(&name, &found)))
}

/// A text that cannot name a pin is the name of none.
fn known_name(name: &str) -> Result<PinName, ApiError> {
    let name = unescape(name).ok_or(ApiError::NotFound)?;
    name.parse().map_err(|_| no_such_pin(&name))
}

fn no_such_pin(name: &str) -> ApiError {
    ApiError::NoSuch("NoSuchPin", format!("there is no pin called {name}"))
}

/// Reads a store path of the cache, or its base name.
fn path(text: &str, cache: &Cache) -> Result<StorePath, ApiError> {
    let path = match text.starts_with('/') {
        true => StorePath::from_absolute(text, cache.store_dir()),
        false => text.parse(),
    };
    path.map_err(|error| bad(SettingError::new("path", error)))
}

/// Whether the caller is told who pinned what.
fn names_people(caller: &Caller, cache: &Cache) -> bool {
    !caller.permissions(cache.name().as_str()).is_empty()
}

fn info(pin: &Pin, named: bool) -> PinInfo {
    let revision = |revision: &PinRevision| pin::PinRevision {
        path: revision.path.to_string(),
        created: revision.created,
        created_by: Some(revision.created_by.clone()).filter(|by| named && !by.is_empty()),
        with_sources: revision.with_sources,
        until: revision.until,
    };
    PinInfo {
        name: pin.name.to_string(),
        keep: pin.keep,
        revisions: pin.revisions.iter().map(revision).collect(),
    }
}

fn report(name: &PinName, found: &pins::PinReport) -> PinReport {
    let missing = |missing: &pins::MissingPath| {
        let (need, by) = match &missing.need {
            Need::Pinned => (pin::Need::Pinned, None),
            Need::Reference { of } => (pin::Need::Reference, Some(of)),
            Need::Derivation { of } => (pin::Need::Derivation, Some(of)),
            Need::Source { of } => (pin::Need::Source, Some(of)),
            Need::UnknownDerivation => (pin::Need::UnknownDerivation, None),
        };
        let needed_by = by.map(ToString::to_string);
        MissingPath { path: missing.path.to_string(), need, needed_by }
    };
    let damaged = |damaged: &pins::DamagedPath| DamagedPath {
        path: damaged.path.to_string(),
        why: damaged.flaw.to_string(),
    };
    PinReport {
        name: name.to_string(),
        revisions: found.revisions as u64,
        paths: found.paths,
        bytes: found.bytes,
        whole: found.whole,
        whole_with_upstream: found.whole_with_upstream,
        missing: found.missing.iter().map(missing).collect(),
        damaged: found.damaged.iter().map(damaged).collect(),
        more: found.more,
    }
}
